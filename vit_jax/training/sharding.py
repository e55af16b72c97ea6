"""One mesh, and the rules by which arrays are laid out over it."""

import dataclasses
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vit_jax.data.loading import HostRows
from vit_jax.errors import UserError
from vit_jax.training.optimizer import path_name

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """Parameters that are split over `tensor`.

    Attributes:
      names: regular expression, searched in a parameter's name.
      axis: which of its axes is split, counted from the last.
      what: that axis is.
    """

    names: str
    axis: int
    what: str


ATTENTION = (
    TensorRule(r"attention/(query|key|value)/(kernel|bias)$", -2, "heads"),
    TensorRule(r"attention/out/kernel$", -3, "heads"),
    TensorRule(r"relative_bias/(table|cls|prefix|among_prefix)$", -1, "heads"),
)
MLP = (
    TensorRule(r"mlp/(dense_0|gate)/(kernel|bias)$", -1, "hidden width"),
    TensorRule(r"mlp/dense_1/kernel$", -2, "hidden width"),
)
MIXING = (
    TensorRule(r"(token|channel)_mixing/dense_0/(kernel|bias)$", -1, "hidden width"),
    TensorRule(r"(token|channel)_mixing/dense_1/kernel$", -2, "hidden width"),
)
TENSOR_RULES = {
    "ViT, DeiT, BEiT, Swin, MobileViT, and the encoder of hybrids": ATTENTION + MLP,
    "EfficientFormer": (*ATTENTION, *MLP, TensorRule(r"mlp/norm_0/(scale|bias)$", -1, "hidden width")),
    "ConvNeXt": (*MLP, TensorRule(r"mlp/grn/(scale|bias)$", -1, "hidden width")),
    "MLP-Mixer": MIXING,
    "ResNet, and the backbone of hybrids": (),
}
"""What is split over `tensor`, by architecture (Shoeybi et al. 2019, Megatron-LM, section 3): the heads of attention,
and the hidden width of every pair of dense layers, so that each pair ends in one sum over the devices. No two
architectures give one name another meaning; what no rule names is whole on every device of the axis."""

FSDP_MIN_SIZE = 2**14
"""Smaller arrays are kept whole on every device: gathering them costs more than they take."""


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of all devices, or of those given; a size of -1 is all that remain.

    The devices of one process stand side by side, so that it loads neighbouring rows of a batch.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
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


def host_rows(mesh: Mesh) -> HostRows:
    """Returns which rows of a global batch this process loads: those of its own devices.

    Processes whose devices hold the same rows (with `tensor` over several processes) load the same.

    Raises:
      UserError: the mesh gives processes parts of unequal size.
    """
    divisor = batch_divisor(mesh)
    parts = np.arange(divisor)[:, None].repeat(mesh.shape["tensor"], 1).reshape(mesh.devices.shape)
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    held = {int(owner): np.unique(parts[owners == owner]) for owner in np.unique(owners)}
    mine = held[jax.process_index()]
    size = len(mine)
    if any(part[0] % size or not np.array_equal(part, part[0] + np.arange(size)) for part in held.values()):
        shape = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(
            f"mesh {shape} splits a batch unevenly over {len(held)} processes; mesh.tensor must be a multiple or a "
            "divisor of the number of devices of each"
        )
    return HostRows(int(mine[0]) // size, divisor // size)


def state_shardings(mesh: Mesh, state) -> object:
    """Returns the layout of every array of a state; moments and averages follow their parameters by name.

    Raises:
      UserError: the mesh has an axis `tensor`, but there is nothing that it could split.
    """
    layouts = jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh)), state
    )
    if mesh.shape["tensor"] > 1 and not any("tensor" in layout.spec for layout in jax.tree.leaves(layouts)):
        raise UserError(
            f"mesh.tensor={mesh.shape['tensor']} splits no parameter of this model (heads and hidden widths that it "
            "divides), so its devices would all do the same work; use mesh.data or mesh.fsdp"
        )
    return layouts


def partition(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns how one array is split: by its tensor rule, and its largest other divisible axis over `fsdp`.

    An axis that its rule names but `tensor` does not divide is whole; so are arrays of less than `FSDP_MIN_SIZE`
    over `fsdp`.
    """
    axes: list[str | None] = [None] * len(shape)
    rule = tensor_rule(name, len(shape))
    if mesh.shape["tensor"] > 1 and rule is not None and shape[rule.axis] % mesh.shape["tensor"] == 0:
        axes[rule.axis] = "tensor"
    if mesh.shape["fsdp"] > 1 and int(np.prod(shape)) >= FSDP_MIN_SIZE:
        for axis in sorted(range(len(shape)), key=lambda i: -shape[i]):
            if axes[axis] is None and shape[axis] % mesh.shape["fsdp"] == 0:
                axes[axis] = "fsdp"
                break
    return PartitionSpec(*axes)


def tensor_rule(name: str, dimensions: int) -> TensorRule | None:
    """Returns the rule that names an array of so many axes, or None."""
    rules = (rule for several in TENSOR_RULES.values() for rule in several)
    return next((rule for rule in rules if re.search(rule.names, name) and dimensions >= -rule.axis), None)


def device_bytes(tree) -> int:
    """Returns the bytes of a tree of laid-out arrays, abstract or not, that one device holds."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def require_divisible(batch_size: int, divisor: int, key: str) -> None:
    """Raises a `UserError` unless the batch size is a positive multiple of `divisor`."""
    if batch_size < 1 or batch_size % divisor:
        lower = batch_size // divisor * divisor
        choices = f"{lower} or {lower + divisor}" if lower > 0 else str(divisor)
        raise UserError(f"{key} {batch_size} is not a multiple of {divisor} (devices that split it); take {choices}")


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Returns the global batch of which this host holds the given part."""
    return {name: jax.make_array_from_process_local_data(sharding, part) for name, part in batch.items()}


def placed(arrays: dict, like: dict, shardings: dict) -> dict:
    """Returns a tree of device arrays of one of host arrays, of the types of `like`; every host holds them whole."""

    def place(leaf, array, sharding):
        array = np.asarray(array).astype(leaf.dtype)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, like, arrays, shardings)


def on_host(tree):
    """Returns a tree as NumPy arrays, those whole that are split over the devices of several hosts."""

    def fetch(leaf: jax.Array) -> np.ndarray:
        whole = leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(whole)

    return jax.tree.map(fetch, tree)
