"""Prepares a TFDS data set in array_record form, once: python -m vit_jax.prepare DATASET [--data_dir=DIR]."""

import argparse
import pathlib
import sys

from vit_jax.command import Parser, exit_status
from vit_jax.errors import UserError


def run(dataset: str, data_dir: str | None, manual_dir: str | None) -> None:
    """Prepares a set and says what there is then.

    Raises:
      UserError: there is no such set or folder, or it cannot be prepared.
    """
    from vit_jax.data.preparation import prepare
    from vit_jax.data.tfds_source import find_builder

    if dataset == "digits" or dataset.startswith("folder:"):
        print(f"{dataset} needs no preparation")
        return
    if manual_dir and not pathlib.Path(manual_dir).expanduser().is_dir():
        raise UserError(f"--manual_dir {manual_dir!r} is no directory")
    if data_dir and pathlib.Path(data_dir).expanduser().is_file():
        raise UserError(f"--data_dir {data_dir!r} is a file")
    print(prepare(find_builder(dataset, data_dir), dataset, data_dir, manual_dir))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the flags.

    Raises:
      UserError: a flag is unknown or lacks its value.
    """
    parser = Parser(prog="python -m vit_jax.prepare", description=__doc__, allow_abbrev=False)
    parser.add_argument("dataset", metavar="DATASET", help="a TFDS classification set, such as cifar10 or imagenet2012")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared sets are kept (default: TFDS's own)")
    parser.add_argument("--manual_dir", metavar="DIR", help="where the archives are that you fetched (ImageNet)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def run_command(arguments: list[str]) -> None:
    """Runs the command line."""
    flags = parse(arguments)
    run(flags.dataset, flags.data_dir, flags.manual_dir)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(run_command, arguments, "interrupted; the same command begins again")


if __name__ == "__main__":
    sys.exit(main())
