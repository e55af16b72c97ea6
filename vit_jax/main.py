"""Trains, continues and evaluates: python -m vit_jax.main --config=configs/X.py[:argument]."""

import argparse
import os
import sys
import time
import typing

from vit_jax.command import Parser, configured, exit_status, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages
from vit_jax.watchdog import ended

if typing.TYPE_CHECKING:
    from ml_collections import ConfigDict

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
    parser.add_argument(
        "--compile_cache",
        nargs="?",
        const="",
        metavar="DIR",
        help="keep compiled programs, so that the next start is faster (without DIR: beside downloaded weights)",
    )
    several = parser.add_argument_group("several processes (found by itself on TPU pods, with SLURM and Open MPI)")
    several.add_argument("--coordinator_address", metavar="HOST:PORT", help="where process 0 listens for the others")
    several.add_argument("--process_count", type=int, metavar="N", help="how many there are; 1: this one is alone")
    several.add_argument("--process_index", type=int, metavar="I", help="which this one is, from 0")
    several.add_argument("--join_timeout", type=float, metavar="SECONDS", help="within which all must come (120)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--config.KEY", dest="_", metavar="VALUE", help="set any config key, e.g. --config.optimizer.lr=1e-4"
    )
    rest, overrides = split_overrides(arguments)
    return parser.parse_args(rest), overrides


def run(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    """Does what the flags ask for, as one of several processes where there are such, and returns the exit status.

    Raises:
      UserError: the flags, the config or what it names is not as it must be.
    """
    from vit_jax.config import config_name, flatten

    config = configured(flags.config, overrides)
    if flags.compile_cache is not None:
        from vit_jax.training.compile_cache import use_compile_cache

        use_compile_cache(flags.compile_cache)
    workdir = flags.workdir or os.path.join("runs", config_name(flags.config))
    if flags.mode == "preview":
        if any(flag is not None for flag in (flags.coordinator_address, flags.process_count, flags.process_index)):
            raise UserError("--mode=preview draws in one process; leave out the flags of several")
        return run_mode(flags.mode, config, workdir)
    from vit_jax.distributed import JOIN_SECONDS, joined, located, require_same

    wait = JOIN_SECONDS if flags.join_timeout is None else flags.join_timeout
    cluster = located(flags.coordinator_address, flags.process_count, flags.process_index, wait)
    with joined(cluster, wait, keeps_sigterm=flags.mode == "train"):
        require_same({"--mode": flags.mode, **flatten(config)})
        return run_mode(flags.mode, config, workdir)


def run_mode(mode: str, config: "ConfigDict", workdir: str) -> int:
    """Does what one mode does and returns the exit status."""
    if mode == "train":
        return run_training(config, workdir)
    if mode == "eval":
        from vit_jax.training.evaluate import evaluate

        evaluate(config, workdir)
    elif mode == "preview":
        from vit_jax.training.preview import preview

        preview(config, workdir)
    else:
        from vit_jax.training.summary import summary

        summary(config)
    return 0


def run_training(config: "ConfigDict", workdir: str) -> int:
    """Trains and returns the exit status; a training that a signal stopped has saved, and says so."""
    from vit_jax.training.run import train
    from vit_jax.training.saved import say
    from vit_jax.training.stopping import Interrupted

    try:
        train(config, workdir=workdir, started=STARTED)
    except Interrupted as interrupted:
        say(str(interrupted))
        return interrupted.status
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    without_training = "interrupted before training began; nothing is lost"
    return ended(lambda: exit_status(lambda words: run(*parse(words)), arguments, without_training))


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
