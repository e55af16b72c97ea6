"""Measures speed and memory: python -m vit_jax.benchmark --mode=train|infer|data|memory|scale."""

import argparse
import os
import pathlib
import sys

from vit_jax.command import Parser, exit_status, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages

AXES = ("model", "batch_size", "image_size", "dtype", "remat", "attention", "attention_kernel", "fused_qkv")
AXES += ("depth", "scan_layers")
SPEED_FLAGS = (*AXES, "repeats", "seconds", "against", "peak_tflops", "profile", "plot")
SCALE_FLAGS = ("topology", "batch_per_chip", "mfu", "peak_tflops", "link_gbps", "memory")
FLAGS = {
    "train": SPEED_FLAGS,
    "infer": (*SPEED_FLAGS, "checkpoint"),
    "data": ("workers", "repeats", "seconds"),
    "memory": (*(axis for axis in AXES if axis != "batch_size"), "memory", "topology"),
    "scale": (*(axis for axis in AXES if axis != "batch_size"), *SCALE_FLAGS),
}
"""The flags of each mode, beside --config, --config.KEY, --json and --debug, which all have."""

DEFAULTS = {
    "data": {"repeats": 5, "seconds": 3.0, "workers": "0,1,2"},
    "memory": {},
    "scale": {"batch_per_chip": 32, "mfu": 0.5},
}
SPEED_DEFAULTS = {"repeats": 5, "seconds": 1.0, "against": ""}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Returns the flags and the config overrides of a command line.

    Raises:
      UserError: a flag is unknown, not of this mode, lacks its value or has a wrong one.
    """
    parser = Parser(prog="python -m vit_jax.benchmark", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    modes = "a training step; a forward pass; the host's pipeline alone; the largest batch that fits; TPU slices"
    add("--mode", choices=list(FLAGS), required=True, help=modes)
    add("--config", metavar="FILE[:ARGUMENT]", help="a config file, and what it takes")
    add("--checkpoint", metavar="CHECKPOINT[,…]", help="runs, weights and bundles in place of random weights (infer)")
    several = parser.add_argument_group("of all but data; commas between values, all combinations are taken")
    for axis in AXES:
        several.add_argument(f"--{axis}", metavar="VALUE[,VALUE…]")
    add("--repeats", type=int, help="measurements, whose median is printed (default: 5)")
    add("--seconds", type=float, help="that each takes at least (default: 1, in mode data 3)")
    add("--against", metavar="PEER,…", help="linen, timm, timm_compiled: the same ViT by others (train and infer)")
    add("--peak_tflops", type=float, help="of one device, by its maker: print the MFU against this too")
    add("--profile", metavar="DIR", type=pathlib.Path, help="trace one call of each case into DIR/<case>")
    add(
        "--plot", metavar="FILE.png", type=pathlib.Path, help="draw time and memory by the axis that has several values"
    )
    add("--memory", metavar="SIZE", help="such as 16GiB: what a step may take (memory), what a chip has (scale)")
    add("--topology", metavar="TPU", help="such as v5e:2x2: compile for one of its chips, none attached (memory)")
    scale = parser.add_argument_group("of scale, whose --topology takes several: v5e:2x4,v5e:8x8")
    scale.add_argument("--batch_per_chip", type=int, help="images (default: 32)")
    scale.add_argument("--mfu", type=float, help="part of the peak at which products are taken to run (default: 0.5)")
    scale.add_argument("--link_gbps", type=float, help="of one link, each way (default: as the chip's maker says)")
    add("--workers", help="worker processes to try; 0 is threads (data; default: 0,1,2)")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--config.KEY", dest="_", metavar="VALUE", help="set any config key, e.g. --config.optimizer.name=sgd")
    rest, overrides = split_overrides(arguments)
    flags = parser.parse_args(rest)
    known = {flag for several in FLAGS.values() for flag in several}
    for flag in sorted(known - set(FLAGS[flags.mode])):
        if getattr(flags, flag) is not None:
            raise UserError(f"--{flag} is not of --mode={flags.mode}; see --help")
    for flag, default in DEFAULTS.get(flags.mode, SPEED_DEFAULTS).items():
        if getattr(flags, flag) is None:
            setattr(flags, flag, default)
    check(flags)
    return flags, overrides


def check(flags: argparse.Namespace) -> None:
    """Raises a `UserError` where a flag of the mode is missing or has no sense; reads the lists and sizes."""
    needed = {"data": "config", "memory": "memory", "scale": "topology"}.get(flags.mode)
    if needed is not None and getattr(flags, needed) is None:
        raise UserError(f"the following arguments are required: --{needed}; see --help")
    if flags.repeats is not None and (flags.repeats < 1 or not 0 <= flags.seconds < float("inf")):
        raise UserError("--repeats must be at least 1 and --seconds at least 0")
    for flag in ("peak_tflops", "link_gbps", "batch_per_chip"):
        value = getattr(flags, flag)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{flag} must be above 0, not {value}")
    if flags.mfu is not None and not 0 < flags.mfu <= 1:
        raise UserError(f"--mfu must be above 0 and at most 1, not {flags.mfu}")
    for flag in ("config", "against"):
        if flags.checkpoint is not None and getattr(flags, flag):
            raise UserError(f"--checkpoint measures what files hold, so it does not go with --{flag}")
    if flags.mode == "data":
        try:
            flags.workers = [int(word) for word in flags.workers.split(",")]
        except ValueError:
            flags.workers = [-1]
        if min(flags.workers) < 0:
            raise UserError("--workers must be whole numbers with commas between, such as 0,2,4")
    if "timm" in (flags.against or ""):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs part of the GPU's memory


def run(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Measures and prints."""
    from vit_jax.measurement.modes import MODES

    MODES[flags.mode](flags, overrides)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda words: run(*parse(words)), arguments, "interrupted")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
