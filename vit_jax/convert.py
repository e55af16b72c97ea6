"""Weights from one ecosystem's format to another's: python -m vit_jax.convert IN OUT --to=FORMAT."""

import argparse
import pathlib
import sys

from vit_jax.command import Parser, exit_status, model_fields, size_of, split_overrides


def parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """Returns the flags, and the model fields that `--model.FIELD` sets.

    Raises:
      UserError: a flag is unknown, lacks its value or has a wrong one.
    """
    from vit_jax.pretrained.save import KINDS

    parser = Parser(prog="python -m vit_jax.convert", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", metavar="IN", help="any CHECKPOINT: a workdir, a file, an address, a short name")
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help="an .npz file for google, else a folder")
    parser.add_argument("--to", required=True, choices=KINDS, help="the format to write")
    parser.add_argument("--image_size", type=size_of, metavar="N|HxW", help="where the file does not tell it")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--model.FIELD", dest="_", metavar="VALUE", help="what the file does not tell: --model.heads=3")
    rest, overrides = split_overrides(arguments, "--model.")
    return parser.parse_args(rest), model_fields(overrides)


def run(flags: argparse.Namespace, fields: dict[str, object]) -> None:
    """Reads, writes, and says what became of the weights.

    Raises:
      UserError: the weights cannot be read, or the format cannot express them.
    """
    from vit_jax.pretrained.load import load_weights
    from vit_jax.pretrained.save import save_weights

    weights = load_weights(flags.checkpoint, flags.image_size, **fields)
    notes = save_weights(weights, flags.out, flags.to)
    size = "" if weights.image_size is None else f", {weights.image_size[0]}x{weights.image_size[1]} pixels"
    count = weights.parameter_count
    print(f"{weights.source}: {weights.name}, {count:,} parameters, {weights.classes} classes{size}")
    for line in weights.unused:
        print(f"  not used: {line}")
    for line in (*weights.notes, *notes):
        print(f"  note: {line}")
    print(f"written: {flags.out} ({flags.to})")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda words: run(*parse(words)), arguments, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
