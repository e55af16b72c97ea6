"""Measures speed and memory: python -m vit_jax.benchmark --mode=train|infer|data|memory."""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

from vit_jax.command import Parser, configured, exit_status, split_overrides
from vit_jax.errors import UserError
from vit_jax.process import use_huge_pages

AXES = ("model", "batch_size", "image_size", "dtype", "remat", "attention", "fused_qkv", "depth", "scan_layers")
SPEED_FLAGS = (*AXES, "repeats", "seconds", "against", "peak_tflops", "profile", "plot")
FLAGS = {
    "train": SPEED_FLAGS,
    "infer": SPEED_FLAGS,
    "data": ("workers", "repeats", "seconds"),
    "memory": (*(axis for axis in AXES if axis != "batch_size"), "memory", "topology"),
}
"""The flags of each mode, beside --config, --config.KEY, --json and --debug, which all have."""

DEFAULTS = {"data": {"repeats": 5, "seconds": 3.0, "workers": "0,1,2"}, "memory": {}}
SPEED_DEFAULTS = {"repeats": 5, "seconds": 1.0, "against": ""}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """Returns the flags and the config overrides of a command line.

    Raises:
      UserError: a flag is unknown, not of this mode, lacks its value or has a wrong one.
    """
    parser = Parser(prog="python -m vit_jax.benchmark", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    modes = "a training step; a forward pass; the host's pipeline alone; the largest batch that fits"
    add("--mode", choices=list(FLAGS), required=True, help=modes)
    add("--config", metavar="FILE[:ARGUMENT]", help="a config file, and what it takes")
    several = parser.add_argument_group("of train, infer and memory; commas between values, all combinations are taken")
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
    add("--memory", metavar="SIZE", help="such as 16GiB: what a training step may take (memory)")
    add("--topology", metavar="TPU", help="such as v5e:2x2: compile for one of its chips, none attached (memory)")
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
    needed = {"data": "config", "memory": "memory"}.get(flags.mode)
    if needed is not None and getattr(flags, needed) is None:
        raise UserError(f"the following arguments are required: --{needed}; see --help")
    if flags.repeats is not None and (flags.repeats < 1 or not 0 <= flags.seconds < float("inf")):
        raise UserError("--repeats must be at least 1 and --seconds at least 0")
    if flags.peak_tflops is not None and not 0 < flags.peak_tflops < float("inf"):
        raise UserError(f"--peak_tflops must be above 0, not {flags.peak_tflops}")
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
    {"data": run_data, "memory": run_memory}.get(flags.mode, run_speed)(flags, overrides)


def axes_of(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the axes that the flags name, as text."""
    return {axis: getattr(flags, axis) for axis in AXES if getattr(flags, axis) is not None}


def run_speed(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Modes "train" and "infer"."""
    from vit_jax.measurement.cases import cases_of
    from vit_jax.measurement.plot import plot_axis, write_plot
    from vit_jax.measurement.report import as_json, table
    from vit_jax.measurement.speed import measure_speeds, write_profiles

    cases = cases_of(axes_of(flags), flags.config, overrides)
    axis = plot_axis(flags.plot, axes_of(flags)) if flags.plot else None
    against = [peer for peer in flags.against.split(",") if peer]
    speeds = measure_speeds(cases, flags.mode, against, flags.repeats, flags.seconds)
    found = as_json(speeds, flags.peak_tflops)
    lines = write_profiles(speeds.measured, flags.profile) if flags.profile else []
    if axis:
        write_plot(flags.plot, axis, found)
        lines.append(f"picture: {flags.plot}")
    print(json.dumps(found) if flags.json else "\n".join(table(found)))
    print("\n".join(lines), file=sys.stderr if flags.json else sys.stdout, end="\n" if lines else "")


def run_memory(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Mode "memory"."""
    import jax

    from vit_jax.measurement.cases import cases_of
    from vit_jax.measurement.largest import bytes_of, largest_lines, measure_largest
    from vit_jax.measurement.topology import chip_of

    limit = bytes_of(flags.memory)
    device = chip_of(flags.topology) if flags.topology else jax.devices()[0]
    cases = cases_of(axes_of(flags), flags.config, overrides)
    found = measure_largest(cases, limit, device, lambda line: print(line, file=sys.stderr))
    if flags.json:
        rows = [{"name": case.name, "settings": case.settings, **dataclasses.asdict(answer)} for case, answer in found]
        print(json.dumps({"mode": "memory", "device": device.device_kind, "limit_bytes": limit, "cases": rows}))
        return
    print("\n".join(largest_lines(found, limit, device)))


def run_data(flags: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Mode "data"."""
    from vit_jax.config import resolve
    from vit_jax.measurement.pipeline import pipeline_speeds, stage_speeds
    from vit_jax.training.experiment import host_batches, named_source

    config = resolve(configured(flags.config, overrides))
    batches = host_batches(config, named_source(config, "train_split"))
    stages = stage_speeds(batches, flags.repeats)
    whole = pipeline_speeds(batches, flags.workers, flags.repeats, flags.seconds)
    if flags.json:
        described = [dataclasses.asdict(speed) | {"median": speed.median} for speed in (*stages, *whole)]
        print(json.dumps({"config": flags.config, "images_per_second": described}))
        return
    size = "x".join(map(str, batches.transform.size))
    print(f"{config.data.name} {config.data.train_split}: {len(batches.source):,} images to {size} pixels")
    print("images/s, median of", flags.repeats)
    for title, speeds in (("one thread, each stage alone", stages), ("the whole pipeline", whole)):
        print(f"  {title}")
        for speed in speeds:
            print(f"    {speed.name:<16} {speed.median:>12,.0f}  ±{speed.spread:.0%}")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return exit_status(lambda words: run(*parse(words)), arguments, "interrupted")


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
