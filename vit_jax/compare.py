"""Finished runs side by side: python -m vit_jax.compare WORKDIR…"""

import argparse
import pathlib
import sys

from vit_jax.command import Parser, exit_status


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the flags.

    Raises:
      UserError: a flag is unknown, lacks its value or has a wrong one.
    """
    from vit_jax.comparison.table import FORMATS

    parser = Parser(prog="python -m vit_jax.compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", metavar="WORKDIR", nargs="+", help="runs; those that differ by seed alone are one row")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument("--out", metavar="FILE.png", type=pathlib.Path, help="draw accuracy against size, cost, speed")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args(arguments)


def run(flags: argparse.Namespace) -> None:
    """Prints the table and draws the picture.

    Raises:
      UserError: a folder is no run, none of them is finished, or the picture cannot be written.
    """
    from vit_jax.comparison.finished import read_runs
    from vit_jax.comparison.picture import require_picture, write_picture
    from vit_jax.comparison.rows import rows_of
    from vit_jax.comparison.table import FORMATS

    if flags.out is not None:
        require_picture(flags.out)
    rows, notes = rows_of(*read_runs(flags.runs))
    print(FORMATS[flags.format](rows, notes))
    if flags.format == "csv":
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if flags.out is not None:
        write_picture(flags.out, rows)
        print(f"picture {flags.out}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda words: run(parse(words)), arguments, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
