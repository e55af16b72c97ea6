"""What a config will train, without training it: the resolved config, parameters, FLOPs and memory."""

import re

import jax
from ml_collections import ConfigDict

from vit_jax.config import flatten
from vit_jax.measurement.flops import products_of
from vit_jax.measurement.memory import program_memory
from vit_jax.training.experiment import Experiment, build, parameter_bytes
from vit_jax.training.frozen import split
from vit_jax.training.initial import resolved
from vit_jax.training.optimizer import parameter_count, path_name


def summary(config: ConfigDict) -> None:
    """Prints the resolved config, the parameter table, and the step's FLOPs and memory from its compiled program.

    Raises:
      UserError: the config or the data is not as it must be.
    """
    config, _ = resolved(config)
    experiment = build(config)
    print("\n".join(f"{key} = {value!r}" for key, value in flatten(config).items()), end="\n\n")
    state = experiment.abstract_state()
    print("\n".join(parameter_table(state.params, experiment.frozen)))
    print("\n".join(cost_lines(experiment, state)))


def parameter_table(params, frozen: str | None = None) -> list[str]:
    """Returns one line an array, the repeated blocks after the first in one line, and the total.

    Args:
      frozen: regular expression of the parameters that are not trained, which are marked, or None. With it, the last
        lines count those that are trained and those that are not.
    """
    rows, repeated = [], {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        block = next((part for part in name.split("/") if part.startswith("block_")), "block_0")
        if block == "block_0":
            rows.append((name, "x".join(map(str, leaf.shape)), f"{leaf.size:,}", marked({name: leaf}, frozen)))
        else:
            repeated.setdefault(block, {})[name] = leaf
    if repeated:
        last = len(repeated)
        label = "encoder/block_1" if last == 1 else f"encoder/block_1 … block_{last}"
        leaves = {name: leaf for block in repeated.values() for name, leaf in block.items()}
        rows.append((label, "as block_0", f"{parameter_count(leaves):,}", marked(leaves, frozen)))
    rows.append(("total", "", f"{parameter_count(params):,}", ""))
    if frozen is not None:
        for what, part in zip(("trained", "frozen"), split(params, frozen), strict=True):
            rows.append((what, "", f"{parameter_count(part):,}", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = (
        f"{name:<{widths[0]}}  {shape:>{widths[1]}}  {size:>{widths[2]}}  {mark}" for name, shape, size, mark in rows
    )
    return [line.rstrip() for line in lines]


def marked(leaves: dict, frozen: str | None) -> str:
    """Returns `frozen` for arrays by name that are not trained, "" for those that are, or how many scalars are not."""
    kept = [leaf for name, leaf in leaves.items() if frozen is not None and re.search(frozen, name)]
    if len(kept) in (0, len(leaves)):
        return "frozen" if kept else ""
    return f"{parameter_count(kept):,} frozen"


def cost_lines(experiment: Experiment, state) -> list[str]:
    """Returns the size of the training, and what the compiled step needs on each device."""
    traced = experiment.train_step.trace(state, experiment.abstract_batch())
    products, memory = products_of(traced.jaxpr), program_memory(traced.lower().compile())
    clock, config = experiment.clock, experiment.config
    mesh = ", ".join(f"{axis}={size}" for axis, size in experiment.mesh.shape.items())
    lines = [
        f"training: {clock.total_steps:,} steps of {clock.batch_size:,} images = "
        f"{clock.total_steps * clock.batch_size / clock.examples_per_epoch:.1f} epochs of {clock.examples_per_epoch:,}",
        f"devices: {len(experiment.mesh.devices.flat)} {jax.devices()[0].device_kind} ({mesh})",
        f"step: {products.flops / 1e9:,.1f} GFLOP on all devices together for {config.train.batch_size} images "
        "(products alone, with what is recomputed)",
        *(f"note: {note}" for note in sorted(products.notes)),
    ]
    if memory is not None:
        lines.append(
            f"memory on each device: {megabytes(memory.arguments)} state and batch, {megabytes(memory.temporaries)} "
            f"while the step runs, {megabytes(memory.peak)} in all; parameters "
            f"{megabytes(parameter_bytes(state.params))} on all devices together"
        )
    return lines


def megabytes(count: int) -> str:
    """Returns a number of bytes as MB."""
    return f"{count / 1e6:,.1f} MB"
