"""Weights made to fit a model that is not quite theirs: another head, image size, patch size."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError
from vit_jax.layers.patch_resize import resize_patches
from vit_jax.layers.relative_bias import OFFSETS, TABLE, resize_offsets, resize_table
from vit_jax.pretrained.names import families
from vit_jax.pretrained.weights import POSITIONS, Weights, parameter_shapes, square_grid

PATCHES = "patch_embed/kernel"
HEADS = ("head/", "head_dist/")
PRE_LOGITS = "pre_logits/"
RESIZES = ("linear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Surgery:
    """What is done where weights and model differ.

    Attributes:
      positions: how the position grid is resized: `linear` (corner-aligned, as Google's loader does), `bicubic`
        (antialiased, as timm does, and DINOv2 with registers), or None for what suits the weights.
      patches: patch kernels are resized to another patch size (FlexiViT, Beyer et al. 2023) rather than refused.
      new_head: the head starts at zero although the number of classes is the same.
    """

    positions: str | None = None
    patches: bool = False
    new_head: bool = False

    def __post_init__(self):
        if self.positions not in (None, *RESIZES):
            raise UserError(f"positions are resized {' or '.join(RESIZES)}, not {self.positions!r}")


@dataclasses.dataclass
class Report:
    """What became of every parameter: names in lists, with the reason where there is one.

    Attributes:
      unused: what the weights hold and the model has no place for.
      count: numbers loaded as they were.
    """

    source: str
    loaded: list[str] = dataclasses.field(default_factory=list)
    resized: list[str] = dataclasses.field(default_factory=list)
    initialised: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    count: int = 0

    def lines(self) -> list[str]:
        """Returns the report as a person reads it."""
        lines = [f"weights of {self.source}: {self.count:,} numbers in {len(self.loaded)} arrays loaded"]
        for name in ("resized", "initialised", "unused"):
            if listed := getattr(self, name):
                lines.append(f"  {name}: {'; '.join(listed)}")
        return lines + [f"  note: {note}" for note in self.notes]


def fit(
    weights: Weights,
    module: nn.Module,
    image_size: tuple[int, int],
    initial: Callable[[], Mapping[str, np.ndarray]],
    surgery: Surgery = Surgery(),
) -> tuple[dict[str, np.ndarray], Report]:
    """Returns parameters of a model, by flat name, taken from weights as far as they fit, and the report.

    The head is that of the weights where the number of classes is equal, and the pre-logits layer the same; else it
    starts as the model initialises it, which is at zero. Positions are resized to the image's grid, tables of relative
    positions to that of the grid or the windows.

    Args:
      initial: the model's own initial parameters, asked for only where some are needed.

    Raises:
      UserError: weights and model are of different kinds, or differ in more than surgery can bridge.
    """
    if not isinstance(module, type(weights.module)) and not isinstance(weights.module, type(module)):
        kinds = (type(weights.module).__name__, type(module).__name__)
        raise UserError(f"{weights.source} holds a {kinds[0]}, but the model is a {kinds[1]}")
    shapes = parameter_shapes(module, image_size)
    report = Report(weights.source, notes=list(weights.notes))
    why_new_head = _why_new_head(weights, module, surgery)
    params, missing, tables = {}, [], []
    for name, shape in shapes.items():
        array = weights.params.get(name)
        other_layer = name.startswith(PRE_LOGITS) and array is not None and array.shape != shape
        if array is None or other_layer or (why_new_head and name.startswith(HEADS)):
            missing.append(name)
        elif array.shape == shape and not _positions_moved(name, weights, module, image_size):
            params[name] = array
            report.loaded.append(name)
        elif name == POSITIONS:
            params[name], line = _fitted_positions(array, weights, module, image_size, surgery)
            report.resized.append(line)
        elif name == PATCHES and array.shape[2:] == shape[2:]:
            params[name] = _fitted_patches(array, shape[:2], weights.source, surgery)
            report.resized.append(f"{name} {_by(array.shape)} -> {_by(shape)} (pseudo-inverse)")
        elif name.endswith((TABLE, OFFSETS)) and array.ndim == 3 and array.shape[2] == shape[2]:
            resize = resize_table if name.endswith(TABLE) else resize_offsets
            params[name] = resize(array, shape[:2])
            tables.append(name)
        elif "/token_mixing/" in name:
            raise UserError(f"{weights.source} holds a Mixer, whose image size is fixed: {weights.image_size}")
        else:
            raise UserError(
                f"{weights.source} is of another model: parameter {name} is {tuple(array.shape)}, not {tuple(shape)}"
            )
    if not any(name.startswith("encoder/") for name in report.loaded):
        raise UserError(f"{weights.source} holds none of the model's encoder")
    report.resized += [f"{name} (linear between distances that grow)" for name in families(tables)]
    if missing:
        start = initial()
        params |= {name: np.asarray(start[name]) for name in missing}
        report.initialised = _explained(missing, why_new_head)
    report.count = sum(params[name].size for name in report.loaded)
    left = [name for name in weights.params if name not in shapes or name in missing]
    report.unused = _explained(left, why_new_head) + list(weights.unused)
    return {name: params[name] for name in shapes}, report


def _why_new_head(weights: Weights, module: nn.Module, surgery: Surgery) -> str | None:
    if not module.num_classes or not weights.classes:
        return None
    if weights.classes != module.num_classes:
        return f"{module.num_classes} classes, not {weights.classes}"
    if getattr(weights.module, "hidden_width", None) != getattr(module, "hidden_width", None):
        return "the pre-logits layer differs"
    return "a new head is asked for" if surgery.new_head else None


def _explained(names: list[str], why_new_head: str | None) -> list[str]:
    heads = [name for name in names if name.startswith((*HEADS, PRE_LOGITS))]
    lines = families(name for name in names if name not in heads)
    modules = dict.fromkeys(name.rpartition("/")[0] for name in heads)
    return lines + [f"{module} ({why_new_head})" if why_new_head else module for module in modules]


def _grid(module: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    height, width = getattr(module, "stride", module.patch_size)
    return -(-size[0] // height), -(-size[1] // width)  # a hybrid's convolutions round up


def _prefix(module: nn.Module) -> int:
    return len(module.class_token_names) if module.cls_position else 0


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:2]))


def _positions_moved(name: str, weights: Weights, module: nn.Module, size: tuple[int, int]) -> bool:
    """Returns whether equally many positions stand for another grid: 4x6 patches are not 6x4."""
    if name != POSITIONS or weights.image_size is None:
        return False
    return _grid(weights.module, weights.image_size) != _grid(module, size) or _prefix(weights.module) != _prefix(
        module
    )


def _fitted_positions(
    array: np.ndarray, weights: Weights, module: nn.Module, size: tuple[int, int], surgery: Surgery
) -> tuple[np.ndarray, str]:
    """Returns the positions for the image's grid, and what was done. Class tokens without a position get zero."""
    have, want = _prefix(weights.module), _prefix(module)
    tokens = array.shape[1] - have
    old = _grid(weights.module, weights.image_size) if weights.image_size else square_grid(tokens)
    if old is None:
        raise UserError(f"{weights.source}: nothing tells which grid its {tokens} positions are; give image_size")
    new, method = _grid(module, size), surgery.positions or weights.position_resize
    grid = resize_grid(array[0, have:].reshape(*old, -1), new, method)
    rows = np.zeros((want, array.shape[2]), array.dtype)
    rows[: min(have, want)] = array[0, : min(have, want)]
    line = f"{POSITIONS} {_by(old)} -> {_by(new)} ({method})" + (
        f", {have} -> {want} class rows" if have != want else ""
    )
    return np.concatenate([rows, grid.reshape(-1, array.shape[2])])[None], line


def resize_grid(
    grid: Float[np.ndarray, "rows columns width"], shape: tuple[int, int], method: str
) -> Float[np.ndarray, "new_rows new_columns width"]:
    """Returns position embeddings for another grid.

    Args:
      method: `linear` puts the corners on each other, as `scipy.ndimage.zoom(order=1)` does, by which Google's loader
        resizes; `bicubic` is antialiased and puts the edges on each other, as DINOv2 with registers and timm do.
    """
    if grid.shape[:2] == tuple(shape):
        return grid
    if method == "bicubic":
        return np.asarray(jax.image.resize(jnp.asarray(grid), (*shape, grid.shape[2]), "bicubic", antialias=True))
    rows, columns = (_aligned(old, new) for old, new in zip(grid.shape, shape, strict=False))
    return np.einsum("ai,bj,ijd->abd", rows, columns, grid.astype(np.float64)).astype(grid.dtype)


def _aligned(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the matrix of corner-aligned linear interpolation."""
    places = np.linspace(0, old - 1, new)
    left = np.minimum(places.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), left] = 1 - (places - left)
    if old > 1:
        matrix[np.arange(new), left + 1] += places - left
    return matrix


def _fitted_patches(kernel: np.ndarray, size: tuple[int, int], source: str, surgery: Surgery) -> np.ndarray:
    if not surgery.patches:
        raise UserError(
            f"{source} has patches of {_by(kernel.shape)}, the model of {_by(size)}; surgery.patches=True resizes them"
        )
    return resize_patches(kernel, size)
