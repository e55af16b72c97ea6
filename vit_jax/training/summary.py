"""What a config will train, without training it: the resolved config, parameters and their layout, FLOPs, memory."""

import re

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vit_jax.config import flatten
from vit_jax.measurement.attention_cost import attention_lines
from vit_jax.measurement.flops import products_of
from vit_jax.measurement.memory import program_memory
from vit_jax.training.experiment import Experiment, build, parameter_bytes
from vit_jax.training.frozen import split
from vit_jax.training.initial import resolved
from vit_jax.training.optimizer import BLOCK, natural, parameter_count, path_name
from vit_jax.training.sharding import device_bytes, tensor_rule


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
    rows, repeated, shown = [], {}, {}
    for block, leaves in blocks_of(params).items():
        folder, _, number = block.rpartition("/")
        shapes = {name.removeprefix(block): leaf.shape for name, leaf in leaves.items()}
        first = shown.get(folder)
        if block and first and first[1] == shapes:
            repeated.setdefault((folder, first[0]), {})[number] = leaves
            continue
        shown[folder] = number, shapes
        for name, leaf in leaves.items():
            shape = "x".join(map(str, leaf.shape))
            rows.append((name, shape, f"{leaf.size:,}", layout(name, leaf), marked({name: leaf}, frozen)))
    for (folder, first), same in repeated.items():
        label = f"{folder}/{next(iter(same))}" + (f" … {list(same)[-1]}" if len(same) > 1 else "")
        leaves = {name: leaf for block in same.values() for name, leaf in block.items()}
        rows.append((label, f"as {first}", f"{parameter_count(leaves):,}", "", marked(leaves, frozen)))
    rows.append(("total", "", f"{parameter_count(params):,}", "", ""))
    if frozen is not None:
        for what, part in zip(("trained", "frozen"), split(params, frozen), strict=True):
            rows.append((what, "", f"{parameter_count(part):,}", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = (
        f"{name:<{widths[0]}}  {shape:>{widths[1]}}  {size:>{widths[2]}}  {over:<{widths[3]}}  {mark}"
        for name, shape, size, over, mark in rows
    )
    return [line.rstrip() for line in lines]


def blocks_of(params) -> dict[str, dict[str, jax.Array]]:
    """Returns the arrays by name, of each block (`encoder/block_0`, or a stage's) in natural order; others under ""."""
    found = {"": {}}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        match = BLOCK.match(path_name(path))
        found.setdefault(match[0] if match else "", {})[path_name(path)] = leaf
    return {block: found[block] for block in sorted(found, key=natural)}


def layout(name: str, leaf) -> str:
    """Returns over which axes of the mesh an array's axes are split, "whole" for none, and "" on a single device."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return ""
    split_axes = [f"axis {i} over {over}" for i, over in enumerate(sharding.spec) if over is not None]
    tensor, rule = sharding.mesh.shape["tensor"], tensor_rule(name, leaf.ndim)
    if tensor > 1 and rule is not None and "tensor" not in sharding.spec:
        split_axes.append(f"not over tensor: {leaf.shape[rule.axis]} {rule.what}, no multiple of {tensor}")
    return ", ".join(split_axes) or "whole"


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
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    lines += attention_lines(experiment.model, variables, experiment.transform.size)
    lines.append(held_line(state, experiment.abstract_batch()))
    if memory is not None:
        lines.append(
            f"memory on each device: {megabytes(memory.arguments)} state and batch, {megabytes(memory.temporaries)} "
            f"while the step runs, {megabytes(memory.peak)} in all; parameters "
            f"{megabytes(parameter_bytes(state.params))} on all devices together"
        )
    return lines


def held_line(state, batch) -> str:
    """Returns what each device holds between steps, by the layout of the arrays."""
    parts = {"parameters": state.params, "optimizer": state.opt_state, "batch": batch}
    if state.ema_params is not None:
        parts["EMA"] = (state.ema_params, state.ema_batch_stats)
    if jax.tree.leaves(state.batch_stats):
        parts["running statistics"] = state.batch_stats
    return "each device holds: " + ", ".join(f"{megabytes(device_bytes(part))} {name}" for name, part in parts.items())


def megabytes(count: int) -> str:
    """Returns a number of bytes as MB."""
    return f"{count / 1e6:,.1f} MB"
