"""Attention in windows of the grid, with a sparse grid for all patches or without, and along rows and columns."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vit_jax.layers.attention_groups import (
    Grouped,
    Groups,
    Map,
    among_all,
    attend_groups,
    group_bias,
    group_cost,
    masked_softmax,
    prefix_cost,
    require_whole,
    total,
)
from vit_jax.layers.attention_kind import Cost, Given, Keys, Queries, Values
from vit_jax.layers.grid_tokens import Layout, whole_grid
from vit_jax.layers.product import attention_scores
from vit_jax.layers.window_attention import join_windows, padding_of, split_windows


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of a grid.

    The grid is padded below and on the right to a multiple of the window, then rolled up and to the left by `steps`, so
    that windows lie across the borders of the others (Liu et al. 2021, Swin, section 3.2).

    Attributes:
      steps: rows and columns; traced where it depends on the number of a block that is scanned.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    steps: tuple[int | Int[Array, ""], int | Int[Array, ""]] = (0, 0)

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of the padded grid."""
        return tuple(side + more for side, more in zip(self.grid, padding_of(self.grid, self.window), strict=True))

    @property
    def rolled(self) -> bool:
        """Whether anything may be rolled."""
        return any(not isinstance(step, int) or step for step in self.steps)

    def split(self, x: Map) -> Groups:
        """Returns what belongs to the patches of each window."""
        x = jnp.pad(x, [(0, 0), *((0, more) for more in padding_of(self.grid, self.window)), (0, 0), (0, 0)])
        if self.rolled:
            x = jnp.roll(x, (-self.steps[0], -self.steps[1]), (1, 2))
        parts = split_windows(x.reshape(*x.shape[:3], -1), self.window)
        return parts.reshape(x.shape[0], -1, parts.shape[1], *x.shape[3:])

    def join(self, parts: Groups) -> Map:
        """Returns the map of which `split` made these windows."""
        x = join_windows(parts.reshape(-1, parts.shape[2], math.prod(parts.shape[3:])), self.window, self.sides)
        x = x.reshape(*x.shape[:3], *parts.shape[3:])
        if self.rolled:
            x = jnp.roll(x, self.steps, (1, 2))
        return x[:, : self.grid[0], : self.grid[1]]

    def regions(self) -> Int[Array, "groups members"]:
        """Returns for each place in each window from which side of the grid it comes, plus 4 where a patch is there."""
        wrapped, there = [], []
        for side, padded, step in zip(self.grid, self.sides, self.steps, strict=True):
            place = np.arange(padded) + step
            wrapped.append(place >= padded)
            there.append(place % padded < side)
        number = wrapped[0][:, None] * 2 + wrapped[1] * 1 + (there[0][:, None] & there[1]) * 4
        return split_windows(number[None, :, :, None], self.window)[:, :, 0]

    def allowed(self) -> Bool[Array, "groups members members"] | None:
        """Returns which patches of a window each of it attends to, or None where it is all of them."""
        if not self.rolled and self.sides == self.grid:
            return None
        region = self.regions()
        return (region[:, :, None] % 4 == region[:, None] % 4) & (region[:, None] >= 4)

    def of_patches(self) -> Int[Array, "patches 2"]:
        """Returns in which row and column of windows each patch is."""
        rows, columns = (
            (np.arange(side) - step) // size
            for side, size, step in zip(self.grid, self.window, self.steps, strict=True)
        )
        places = whole_grid(self.grid)
        numpy = jnp if self.rolled else np
        return numpy.stack([rows[places[:, 0]], columns[places[:, 1]]], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Grouped):
    """Each patch attends to those in its window, a square that the grid is cut into, and to the prefix, which attends
    to all (Liu et al. 2021, Swin; the prefix as Longformer's global tokens, Beltagy et al. 2020, section 3.1).

    The product is linear in the number of patches. A window as large as the grid is full attention.

    Attributes:
      window: rows and columns of a window; those of the grid where that is smaller.
      shift: in every second block the windows are shifted by half of their size; patches that were at opposite ends
        of the grid do not meet.
    """

    window: int = 7
    shift: bool = False

    def windows(self, layout: Layout) -> Windows:
        """Returns the windows of a block."""
        window = tuple(min(side, self.window) for side in layout.grid)
        odd = layout.layer % 2 if self.shift else 0
        steps = (size // 2 * odd if side > size else 0 for side, size in zip(layout.grid, window, strict=True))
        return Windows(layout.grid, window, tuple(steps))

    def patches(self, query: Map, key: Map, value: Map, shared: tuple[Keys, Values], given: Given) -> Map:
        """Returns the values as they are mixed for each patch."""
        windows = self.windows(given.layout)
        inside = whole_grid(windows.window)[None]
        bias = group_bias(given.offsets, inside, inside, windows.allowed(), given.layout.prefix)
        parts = (windows.split(x) for x in (query, key, value))
        return windows.join(attend_groups(*parts, shared, bias, given.drop(0)))

    def attended(self, layout: Layout) -> Bool[Array, "patches patches"]:
        """Returns which patches are in the window of each patch."""
        window = self.windows(layout).of_patches()
        return (window[:, None] == window[None]).all(-1)

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image, padding included."""
        windows = self.windows(Layout(grid, prefix))
        members = math.prod(windows.window)
        groups = math.prod(windows.sides) // members
        return total(
            group_cost(heads, head_dim, groups, members, members, prefix),
            prefix_cost(heads, head_dim, prefix, prefix + math.prod(grid)),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sparse(Grouped):
    """Each patch attends to those in its block, to every `stride`-th row's every `stride`-th patch of the whole grid,
    and to the prefix, which attends to all.

    The fixed pattern of Child et al. 2019 (Sparse Transformer, section 4.3) in two dimensions: block and strided
    places in one softmax, a place that is both counted once; global tokens as in BigBird (Zaheer et al. 2020).
    With the default stride the product grows with the power 1.5 of the number of patches; a stride of 1 is full
    attention.

    Attributes:
      window: rows and columns of a block.
      stride: None for the root of the grid's longer side, rounded up.
    """

    window: int = 7
    stride: int | None = None

    def windows(self, layout: Layout) -> Windows:
        """Returns the blocks."""
        return Windows(layout.grid, tuple(min(side, self.window) for side in layout.grid))

    def strided(self, grid: tuple[int, int]) -> Int[np.ndarray, "strided 2"]:
        """Returns the rows and columns of the patches that all attend to."""
        stride = self.stride or math.isqrt(max(grid) - 1) + 1
        return np.stack(np.meshgrid(*(along(side, stride) for side in grid), indexing="ij"), -1).reshape(-1, 2)

    def patches(self, query: Map, key: Map, value: Map, shared: tuple[Keys, Values], given: Given) -> Map:
        """Returns the values as they are mixed for each patch."""
        layout, windows = given.layout, self.windows(given.layout)
        strided = self.strided(layout.grid)

        def with_strided(prefix: Keys, whole: Map) -> Keys:
            return jnp.concatenate([prefix, whole[:, strided[:, 0], strided[:, 1]]], axis=1)

        places = block_places(windows)
        apart = (strided[None] // windows.window != places[:, :1] // windows.window).any(-1)
        own = windows.allowed()
        own = np.ones((len(places), *(places.shape[1],) * 2), bool) if own is None else own
        apart = np.broadcast_to(apart[:, None], (*own.shape[:2], len(strided)))
        keys = np.concatenate([np.broadcast_to(strided, (len(places), *strided.shape)), places], axis=1)
        allowed = np.concatenate([apart, own], axis=2)
        bias = group_bias(given.offsets, places, keys, allowed, layout.prefix)
        parts = (windows.split(x) for x in (query, key, value))
        shared = with_strided(shared[0], key), with_strided(shared[1], value)
        return windows.join(attend_groups(*parts, shared, bias, given.drop(0)))

    def attended(self, layout: Layout) -> Bool[np.ndarray, "patches patches"]:
        """Returns which patches are in the block of each patch or strided."""
        block = self.windows(layout).of_patches()
        strided = self.strided(layout.grid) @ np.array([layout.grid[1], 1])
        return (block[:, None] == block[None]).all(-1) | np.isin(np.arange(len(block)), strided)

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image, padding included."""
        windows = self.windows(Layout(grid, prefix))
        members = math.prod(windows.window)
        groups, shared = math.prod(windows.sides) // members, prefix + len(self.strided(grid))
        return total(
            group_cost(heads, head_dim, groups, members, members, shared),
            prefix_cost(heads, head_dim, prefix, prefix + math.prod(grid)),
        )


def along(side: int, stride: int) -> Int[np.ndarray, "strided"]:
    """Returns every `stride`-th place of a side, in the middle between the borders as far as it can be."""
    return np.arange(min((stride - 1) // 2, side - 1), side, stride)


def block_places(windows: Windows) -> Int[np.ndarray, "groups members 2"]:
    """Returns row and column of each place of each window that is not rolled, padding included."""
    return split_windows(whole_grid(windows.sides).reshape(1, *windows.sides, 2), windows.window)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axial(Grouped):
    """Attention along rows, then of what that gave along columns (Ho et al. 2019, "Axial Attention in Multidimensional
    Transformers", section 3), both in every block by the same queries and keys: every patch reaches every other.

    In the paper rows and columns have blocks of their own; one after the other in a block stand they in Axial-DeepLab
    (Wang et al. 2020, section 3.2), there with projections of their own. One set of projections for both passes, as in
    CCNet's recurrence (Huang et al. 2019, section 3.3), keeps the parameters those of full attention. The keys of the
    prefix come before those of each row; along columns patches alone are mixed, which hold what they took from the
    prefix. The prefix attends to all tokens. A grid of one row is full attention.
    """

    def patches(self, query: Map, key: Map, value: Map, shared: tuple[Keys, Values], given: Given) -> Map:
        """Returns the values as they are mixed for each patch."""
        rows, columns = (self.line(given.layout, axis) for axis in (1, 0))
        bias = group_bias(given.offsets, rows, rows, None, given.layout.prefix)
        in_rows = attend_groups(query, key, value, shared, bias, given.drop(0))
        bias = group_bias(given.offsets, columns, columns)
        turned = (x.swapaxes(1, 2) for x in (query, key, in_rows))
        none = tuple(x[:, :0] for x in shared)
        return attend_groups(*turned, none, bias, given.drop(2)).swapaxes(1, 2)

    @staticmethod
    def line(layout: Layout, axis: int) -> Int[np.ndarray, "1 members 2"]:
        """Returns the places of a row (axis 1) or a column (axis 0)."""
        places = np.zeros((1, layout.grid[axis], 2), int)
        places[0, :, axis] = np.arange(layout.grid[axis])
        return places

    def attended(self, layout: Layout, axis: int = 0) -> Bool[np.ndarray, "patches patches"]:
        """Returns which patches are in the row (axis 0) or the column (axis 1) of each patch."""
        place = whole_grid(layout.grid)[:, axis]
        return place[:, None] == place[None]

    def weights(self, query: Queries, key: Keys, given: Given) -> Float[Array, "batch*heads queries keys"]:
        """Returns the product of the weights along columns and along rows, each row of which sums to 1."""
        layout = given.layout
        require_whole(layout)
        scores = attention_scores(query, key, given.added())
        in_rows = masked_softmax(scores, among_all(self.attended(layout), layout.prefix))
        patches = scores[:, layout.prefix :, layout.prefix :]
        in_columns = masked_softmax(patches, self.attended(layout, axis=1))
        mixed = jnp.matmul(in_columns, in_rows[:, layout.prefix :], precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([in_rows[:, : layout.prefix], mixed], axis=1)

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image."""
        rows, columns = grid
        return total(
            group_cost(heads, head_dim, rows, columns, columns, prefix),
            group_cost(heads, head_dim, columns, rows, rows, 0),
            prefix_cost(heads, head_dim, prefix, prefix + rows * columns),
        )
