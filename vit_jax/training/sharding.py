"""One mesh, and the rules by which arrays are laid out over it."""

import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training.optimizer import path_name

AXES = ("data", "fsdp", "tensor")

TENSOR_RULES = (
    (r"attention/(query|key|value)/(kernel|bias)$", -2),
    (r"attention/out/kernel$", -3),
    (r"mlp/(dense_0|gate)/(kernel|bias)$", -1),
    (r"mlp/dense_1/kernel$", -2),
)
"""Parameters split over `tensor`, and the axis that is: heads, and the MLP's hidden width."""

FSDP_MIN_SIZE = 2**14
"""Smaller arrays are kept whole on every device: gathering them costs more than they take."""


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices, or of those given; a size of -1 is all that remain.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config[axis] for axis in AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise UserError(f"mesh {dict(zip(AXES, sizes, strict=True))}: sizes are positive, and at most one is -1")
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices):
        shape = ", ".join(f"{axis}={config[axis]}" for axis in AXES)
        raise UserError(f"mesh {shape} does not fit {len(devices)} devices; the sizes must multiply to that number")
    return Mesh(np.array(devices).reshape(sizes), AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the layout of a batch: its first axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the layout of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_divisor(mesh: Mesh) -> int:
    """Returns what a batch size must be a multiple of."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def state_shardings(mesh: Mesh, state) -> object:
    """Returns the layout of every array of a state; the optimizer's moments follow their parameters by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh)), state
    )


def partition(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns how one array is split: by its tensor rule, and its largest other divisible axis over `fsdp`."""
    axes: list[str | None] = [None] * len(shape)
    if mesh.shape["tensor"] > 1:
        for pattern, axis in TENSOR_RULES:
            if re.search(pattern, name) and len(shape) >= -axis and shape[axis] % mesh.shape["tensor"] == 0:
                axes[axis] = "tensor"
                break
    if mesh.shape["fsdp"] > 1 and int(np.prod(shape)) >= FSDP_MIN_SIZE:
        for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
            if axes[axis] is None and shape[axis] % mesh.shape["fsdp"] == 0:
                axes[axis] = "fsdp"
                break
    return PartitionSpec(*axes)


def require_divisible(batch_size: int, divisor: int, key: str) -> None:
    """Raises a `UserError` unless the batch size is a positive multiple of `divisor`."""
    if batch_size < 1 or batch_size % divisor:
        lower = batch_size // divisor * divisor
        choices = f"{lower} or {lower + divisor}" if lower > 0 else str(divisor)
        raise UserError(f"{key} {batch_size} is not a multiple of {divisor} (devices that split it); take {choices}")


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global batch of which this host holds the given part."""
    return {name: jax.make_array_from_process_local_data(sharding, part) for name, part in batch.items()}


def on_host(tree):
    """Returns a tree as NumPy arrays, those whole that are split over the devices of several hosts."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        whole = leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(whole)

    return jax.tree.map(fetch, tree)
