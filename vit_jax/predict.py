"""Classes of image files: python -m vit_jax.predict CHECKPOINT IMAGE|FOLDER…"""

import argparse
import contextlib
import os
import pathlib
import sys

from vit_jax.command import Parser, exit_status, model_fields, size_of, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages

DTYPES = ("float32", "bfloat16", "float16")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """Returns the flags and the model's fields of a command line.

    Raises:
      UserError: a flag is unknown, lacks its value or has a wrong one.
    """
    from vit_jax.inference.prediction_formats import FORMATS

    parser = Parser(prog="python -m vit_jax.predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a workdir, a file, an address, a short name")
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="folders with all below them")
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="classes an image at most (default: 5)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--embeddings", type=pathlib.Path, metavar="FILE.npz", help="write the vectors before the head")
    parser.add_argument("--flip", action="store_true", help="average the probabilities of image and mirror image")
    parser.add_argument("--batch_size", type=_positive, default=32, metavar="N", help="images at once (default: 32)")
    parser.add_argument("--image_size", type=size_of, metavar="N|HxW", help="that the model shall see")
    parser.add_argument("--dtype", choices=DTYPES, help="in which the model computes")
    parser.add_argument("--merge_tokens", type=int, metavar="R", help="merge R tokens in every block: faster")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--model.FIELD", dest="_", metavar="VALUE", help="what the file does not tell: --model.heads=3")
    rest, overrides = split_overrides(arguments, "--model.")
    for word in rest[: rest.index("--") if "--" in rest else None]:
        if word.startswith("-") and os.path.exists(word):
            raise UserError(f"{word} is a file, but begins as a flag does; write ./{word}")
    flags = parser.parse_intermixed_args(rest)
    fields = model_fields(overrides)
    for name in ("dtype", "merge_tokens"):
        given = getattr(flags, name)
        if given is not None and fields.setdefault(name, given) != given:
            raise UserError(f"--{name}={given} and --model.{name}={fields[name]} contradict each other")
    return flags, fields


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text!r}")
    return int(text)


def run(arguments: list[str]) -> int:
    """Runs the command line and returns the exit status: 1 where a file could not be read.

    Raises:
      UserError: a path does not exist, or the model cannot be loaded or does not give what is asked for.
    """
    flags, fields = parse(arguments)
    from vit_jax import load_model
    from vit_jax.inference.embedding_file import EmbeddingFile
    from vit_jax.inference.pictures import image_files
    from vit_jax.inference.prediction_report import Report
    from vit_jax.training.loop import StopSignal

    files = image_files(flags.images)
    wanted = flags.embeddings and EmbeddingFile(flags.embeddings, keep=flags.checkpoint)
    with wanted or contextlib.nullcontext() as store:
        model = load_model(flags.checkpoint, flags.image_size, **fields)
        with StopSignal() as stop:  # jax does not always survive an exception that Ctrl-C raises in the midst of it

            def proceed() -> None:
                if stop.received:
                    raise KeyboardInterrupt

            report = Report(model, files, flags.format, flags.top, store, proceed)
            report.describe()
            return report.run(flags.batch_size, flags.flip)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(run, arguments, "interrupted; the output is incomplete, and no embeddings were written")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
