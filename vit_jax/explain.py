"""What a model looks at in images, as pictures: python -m vit_jax.explain CHECKPOINT IMAGE|FOLDER… --out=DIR"""

import argparse
import pathlib
import sys

from vit_jax.command import Parser, exit_status, model_fields, size_of, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """Returns the flags and the model's fields of a command line.

    Raises:
      UserError: a flag is unknown, lacks its value or has a wrong one, or there is nothing to do.
    """
    parser = Parser(prog="python -m vit_jax.explain", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a workdir, a file, an address, a short name")
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="*", help="folders with all below them")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="the folder to write")
    parser.add_argument("--method", type=_names, default=["all"], metavar="NAME,…|all", help="default: all")
    parser.add_argument("--layer", metavar="NAME|N", help="of methods of one layer; -1 is the last")
    parser.add_argument("--head", type=int, metavar="N", help="default: the mean of all")
    parser.add_argument("--place", type=_place, metavar="ROW,COLUMN", help="show where this place attends")
    parser.add_argument("--class", dest="of_class", metavar="NAME|N", help="to explain; default: the predicted one")
    parser.add_argument("--fusion", metavar="mean|max|min", help="of the heads, in rollout and flow")
    parser.add_argument("--discard_ratio", type=float, metavar="SHARE", help="of the smallest weights, in rollout")
    parser.add_argument(
        "--page", action=argparse.BooleanOptionalAction, help="interactive pages; default: where the model allows them"
    )
    parser.add_argument("--faithfulness", metavar="DATASET[:N]", help="measure the methods on N images of a data set")
    parser.add_argument("--split", default="test", help="of that data set (default: test)")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared TFDS sets are")
    parser.add_argument("--image_size", type=size_of, metavar="N|HxW", help="that the model shall see")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--model.FIELD", dest="_", metavar="VALUE", help="what the file does not tell: --model.heads=3")
    rest, overrides = split_overrides(arguments, "--model.")
    flags = parser.parse_intermixed_args(rest)
    if not flags.images and not flags.faithfulness:
        raise UserError("nothing to explain: give images, or --faithfulness=DATASET[:N]; see --help")
    if flags.images and flags.out is None:
        raise UserError("--out=DIR is missing: the folder that the pictures go to")
    if flags.of_class is not None and not flags.images:
        raise UserError("--class means nothing to --faithfulness, which explains each image's true class")
    return flags, model_fields(overrides)


def _names(text: str) -> list[str]:
    return text.split(",")


def _place(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a row and a column counted from 0, such as 3,5, not {text!r}")
    return int(row), int(column)


def run(arguments: list[str]) -> None:
    """Runs the command line.

    Raises:
      UserError: a file cannot be read, or the model cannot be loaded or has not what a method needs.
    """
    flags, fields = parse(arguments)
    from vit_jax import load_model
    from vit_jax.explanation.gallery import Gallery
    from vit_jax.explanation.methods import Options
    from vit_jax.inference.pictures import image_files

    files = image_files(flags.images)
    options = Options(flags.layer, flags.head, flags.place, flags.fusion, flags.discard_ratio)
    model = load_model(flags.checkpoint, flags.image_size, **fields)
    print(f"{model.source}: {model.num_classes} classes, {'x'.join(map(str, model.preprocessing.size))} pixels")
    for line in getattr(model, "notes", []):
        print(f"  note: {line}")
    if files:
        gallery = Gallery(model, flags.out, flags.method, options, flags.of_class, flags.page)
        for file in files:
            print(gallery.add(file), flush=True)
        index = gallery.finish()
        for line in gallery.notes:
            print(f"  note: {line}")
        print(f"written: {index} and {len(gallery.written) - 1} files beside it")
    if flags.faithfulness:
        from vit_jax.explanation.faithfulness_report import report

        report(model, flags.faithfulness, flags.split, flags.data_dir, flags.method, options, flags.out)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(run, arguments, "interrupted; what is written so far stays")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
