"""Quadtrees with a fixed number of leaves: small patches where an image has detail, large ones elsewhere.

The image is a grid of the largest patches, each of which may be split into four, and those again. The patch that loses
most is split first: what is lost is the squared error of the image where the patch is shrunk to the smallest size, as
it is to be embedded. So the splits reduce the error of the shrunken image as a greedy search does. A patch never
loses less than its parts do, so the search is one sort, and every image has as many leaves.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Leaves(NamedTuple):
    """The leaves of each image's tree, by their upper left corners, row by row.

    Attributes:
      nodes: their indices among all nodes of the tree, the largest patches first, each size row by row.
      assignment: for each of the smallest patches, row by row, the index of the leaf that covers it.
    """

    nodes: Int[Array, "batch leaves"]
    assignment: Int[Array, "batch patches"]


@dataclasses.dataclass(frozen=True)
class Quadtree:
    """The nodes of the tree over an image, the largest patches first, each size row by row.

    Attributes:
      grid: rows and columns of the smallest patches.
      scales: sizes of patches; each is twice as large as the one before, each way.

    Raises:
      ValueError: the grid is not made of whole patches of the largest size.
    """

    grid: tuple[int, int]
    scales: int

    def __post_init__(self):
        largest = 2 ** (self.scales - 1)
        if any(side % largest for side in self.grid):
            rows, columns = self.grid
            raise ValueError(f"{rows}x{columns} patches are not whole squares of {largest}x{largest}")

    @property
    def levels(self) -> range:
        """How often a side is doubled, of the largest patches first."""
        return range(self.scales - 1, -1, -1)

    def sides(self, level: int) -> tuple[int, int]:
        """Returns the rows and columns of the patches of one size."""
        return self.grid[0] >> level, self.grid[1] >> level

    @property
    def patches(self) -> int:
        """The number of the smallest patches."""
        return math.prod(self.grid)

    @property
    def roots(self) -> int:
        """The number of the largest patches."""
        return math.prod(self.sides(self.scales - 1))

    @functools.cached_property
    def boxes(self) -> Int[np.ndarray, "nodes 4"]:
        """Top, left, height and width of every node, in smallest patches."""
        tables = []
        for level in self.levels:
            corners = np.mgrid[tuple(slice(side) for side in self.sides(level))].reshape(2, -1).T << level
            tables.append(np.concatenate([corners, np.full_like(corners, 1 << level)], axis=1))
        return np.concatenate(tables).astype(np.int32)

    @functools.cached_property
    def ancestors(self) -> Int[np.ndarray, "patches scales"]:
        """The nodes that cover each of the smallest patches, the largest first."""
        row, column = np.mgrid[: self.grid[0], : self.grid[1]].reshape(2, -1)
        found, first = [], 0
        for level in self.levels:
            rows, columns = self.sides(level)
            found.append(first + (row >> level) * columns + (column >> level))
            first += rows * columns
        return np.stack(found, axis=1).astype(np.int32)

    @functools.cached_property
    def parents(self) -> Int[np.ndarray, "nodes"]:
        """The node of which each is a part; a root's is itself."""
        parents = np.arange(len(self.boxes), dtype=np.int32)
        for larger, smaller in itertools.pairwise(self.ancestors.T):
            parents[smaller] = larger
        return parents

    @functools.cached_property
    def first_patches(self) -> Int[np.ndarray, "nodes"]:
        """The smallest patch in the upper left corner of each node."""
        return (self.boxes[:, 0] * self.grid[1] + self.boxes[:, 1]).astype(np.int32)

    def splits(self, leaves: int) -> int:
        """Returns how many nodes are split in a tree of so many leaves.

        Raises:
          ValueError: there is no such tree; the nearest are named.
        """
        count = (leaves - self.roots) // 3
        if self.roots + 3 * count == leaves and self.roots <= leaves <= self.patches:
            return count
        lower, upper = (min(max(self.roots + 3 * n, self.roots), self.patches) for n in (count, count + 1))
        nearest = str(lower) if lower == upper else f"{lower} or {upper}"
        rows, columns = self.grid
        raise ValueError(
            f"{leaves} tokens cannot cover {rows}x{columns} patches: to the {self.roots} largest every split adds 3; "
            f"take {nearest}"
        )

    def leaves(self, errors: Float[Array, "batch splittable"], count: int) -> Leaves:
        """Returns the trees of `count` leaves whose splits have the largest errors.

        Args:
          errors: what each node loses by not being split, all but the smallest patches.
        """
        split = self._ranks(-self._falling(errors)) < self.splits(count)
        split = jnp.concatenate([split, jnp.zeros((errors.shape[0], self.patches), bool)], axis=1)
        is_leaf = split[:, self.parents] & ~split
        is_leaf = is_leaf.at[:, : self.roots].set(~split[:, : self.roots])
        place = jnp.where(is_leaf, self.first_patches, self.patches)
        return Leaves(jnp.argsort(place, axis=1)[:, :count], self._assignment(is_leaf, self._ranks(place)))

    def _falling(self, errors: Float[Array, "batch splittable"]) -> Float[Array, "batch splittable"]:
        """Returns errors that no rounding makes larger than those of the parents."""
        falling, first = [errors[:, : self.roots]], self.roots
        for level in self.levels[1:-1]:
            count, before = math.prod(self.sides(level)), first - falling[-1].shape[1]
            limit = falling[-1][:, self.parents[first : first + count] - before]
            falling.append(jnp.minimum(errors[:, first : first + count], limit))
            first += count
        return jnp.concatenate(falling, axis=1)

    @staticmethod
    def _ranks(keys: Float[Array, "batch nodes"]) -> Int[Array, "batch nodes"]:
        """Returns how many keys come before each; of equal ones the first, so that parents come before their parts."""
        return jnp.argsort(jnp.argsort(keys, axis=1), axis=1)

    def _assignment(
        self, is_leaf: Bool[Array, "batch nodes"], ranks: Int[Array, "batch nodes"]
    ) -> Int[Array, "batch patches"]:
        """Returns the rank of the one leaf that covers each of the smallest patches."""
        return (jnp.where(is_leaf, ranks, 0)[:, self.ancestors]).sum(axis=2)


def shrunken(images: Float[Array, "batch height width channels"], scales: int) -> list[Float[Array, "..."]]:
    """Returns the images, and what becomes of them by halving their sides again and again (means of 2x2 pixels)."""
    found = [images]
    for _ in range(scales - 1):
        found.append(blocks(found[-1], (2, 2)).mean((2, 4)))
    return found


def shrinking_errors(
    pyramid: list[Float[Array, "batch height width channels"]], patch_size: tuple[int, int]
) -> Float[Array, "batch splittable"]:
    """Returns the squared error of each patch larger than the smallest, rebuilt from what it is shrunk to.

    Args:
      pyramid: as `shrunken` returns it; float32.
    """
    total, errors = 0.0, []
    for level, (fine, coarse) in enumerate(itertools.pairwise(pyramid)):
        lost = ((blocks(fine, (2, 2)) - coarse[:, :, None, :, None]) ** 2).sum((2, 4, 5)) * 4.0**level
        total = lost + (blocks(total, (2, 2))[..., 0].sum((2, 4)) if level else 0.0)
        total = total[..., None]
        errors.append(blocks(total, patch_size).sum((2, 4, 5)).reshape(lost.shape[0], -1))
    return jnp.concatenate(errors[::-1], axis=1)


def blocks(
    x: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch rows block_height columns block_width channels"]:
    """Returns a map cut into blocks."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // size[0], size[0], width // size[1], size[1], channels)
