"""What the benchmark command does in each of its modes: measures, and prints a table or one JSON object."""

import argparse
import dataclasses
import json
import sys

import jax

from vit_jax.command import configured
from vit_jax.config import resolve
from vit_jax.measurement.cases import AXES, cases_of
from vit_jax.measurement.checkpoints import checkpoint_programs
from vit_jax.measurement.largest import bytes_of, largest_json, largest_lines, measure_largest
from vit_jax.measurement.pipeline import pipeline_lines, pipeline_speeds, stage_speeds
from vit_jax.measurement.plot import plot_axis, write_plot
from vit_jax.measurement.report import as_json, table
from vit_jax.measurement.scaling import chip_named, measure_scaling, scaling_json, scaling_lines
from vit_jax.measurement.speed import measure_speeds, programs_of, write_profiles
from vit_jax.measurement.topology import chips_of
from vit_jax.training.experiment import host_batches, named_source

Overrides = list[tuple[str, str]]


def axes_of(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the axes that the flags name, as text."""
    return {axis: getattr(flags, axis) for axis in AXES if getattr(flags, axis) is not None}


def run_speed(flags: argparse.Namespace, overrides: Overrides) -> None:
    """Modes "train" and "infer": of models by their config, or of checkpoints."""
    axes = axes_of(flags)
    axis = plot_axis(flags.plot, axes) if flags.plot else None
    if flags.checkpoint is None:
        against = [peer for peer in flags.against.split(",") if peer]
        programs, devices = programs_of(cases_of(axes, flags.config, overrides), flags.mode, against), jax.devices()
    else:
        programs, devices = checkpoint_programs(flags.checkpoint, axes, overrides), jax.devices()[:1]
    speeds = measure_speeds(programs, flags.mode, devices, flags.repeats, flags.seconds)
    found = as_json(speeds, flags.peak_tflops)
    lines = write_profiles(speeds.measured, flags.profile) if flags.profile else []
    if axis:
        write_plot(flags.plot, axis, found)
        lines.append(f"picture: {flags.plot}")
    print(json.dumps(found) if flags.json else "\n".join(table(found)))
    print("\n".join(lines), file=sys.stderr if flags.json else sys.stdout, end="\n" if lines else "")


def run_memory(flags: argparse.Namespace, overrides: Overrides) -> None:
    """Mode "memory"."""
    limit = bytes_of(flags.memory)
    device = chips_of(flags.topology)[0] if flags.topology else jax.devices()[0]
    cases = cases_of(axes_of(flags), flags.config, overrides)
    found = measure_largest(cases, limit, device, lambda line: print(line, file=sys.stderr))
    as_text = json.dumps(largest_json(found, limit, device)) if flags.json else None
    print(as_text or "\n".join(largest_lines(found, limit, device)))


def run_scale(flags: argparse.Namespace, overrides: Overrides) -> None:
    """Mode "scale"."""
    memory = None if flags.memory is None else bytes_of(flags.memory)
    slices = flags.topology.split(",")
    chips = {topology: chip_named(topology, flags.peak_tflops, flags.link_gbps, memory) for topology in slices}
    cases = cases_of({"batch_size": "1", **axes_of(flags)}, flags.config, overrides)
    found = measure_scaling(cases, chips, flags.batch_per_chip, flags.mfu, lambda line: print(line, file=sys.stderr))
    as_text = json.dumps(scaling_json(found, chips, flags.mfu)) if flags.json else None
    print(as_text or "\n".join(scaling_lines(found, chips, flags.mfu)))


def run_data(flags: argparse.Namespace, overrides: Overrides) -> None:
    """Mode "data"."""
    config = resolve(configured(flags.config, overrides))
    batches = host_batches(config, named_source(config, "train_split"))
    stages = stage_speeds(batches, flags.repeats)
    whole = pipeline_speeds(batches, flags.workers, flags.repeats, flags.seconds)
    if flags.json:
        described = [dataclasses.asdict(speed) | {"median": speed.median} for speed in (*stages, *whole)]
        print(json.dumps({"config": flags.config, "images_per_second": described}))
        return
    name = f"{config.data.name} {config.data.train_split}"
    print("\n".join(pipeline_lines(batches, name, stages, whole, flags.repeats)))


MODES = {"train": run_speed, "infer": run_speed, "data": run_data, "memory": run_memory, "scale": run_scale}
