"""Trains, continues and evaluates: python -m vit_jax.main --config=configs/X.py[:argument]."""

import argparse
import os
import sys
import time

from vit_jax.command import Parser, configured, exit_status, split_overrides
from vit_jax.process import use_huge_pages

STARTED = time.perf_counter()
MODES = ("train", "eval", "preview", "summary")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Returns the flags and the config overrides of a command line.

    Raises:
      UserError: a flag is unknown or lacks its value.
    """
    parser = Parser(prog="python -m vit_jax.main", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENT]", help="a config file, and what it takes")
    parser.add_argument("--workdir", help="where the run lives (default: runs/<config name>)")
    parser.add_argument("--mode", choices=MODES, default="train", help="default: train, which also continues")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--config.KEY", dest="_", metavar="VALUE", help="set any config key, e.g. --config.optimizer.lr=1e-4"
    )
    rest, overrides = split_overrides(arguments)
    return parser.parse_args(rest), overrides


def run(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Does what the flags ask for."""
    from vit_jax.config import config_name

    config = configured(flags.config, overrides)
    workdir = flags.workdir or os.path.join("runs", config_name(flags.config))
    if flags.mode == "train":
        from vit_jax.training.run import train

        train(config, workdir=workdir, started=STARTED)
    elif flags.mode == "eval":
        from vit_jax.training.evaluate import evaluate

        evaluate(config, workdir)
    elif flags.mode == "preview":
        from vit_jax.training.preview import preview

        preview(config, workdir)
    else:
        from vit_jax.training.summary import summary

        summary(config)


def run_command(arguments: list[str]) -> int:
    """Runs the command line; a training that a signal stopped has saved, and says so."""
    from vit_jax.training.loop import Interrupted

    try:
        run(*parse(arguments))
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.status
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(run_command, arguments, "interrupted before training began; nothing is lost")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
