"""Tokens that know their places: those of a grid of patches, and others before them that stand nowhere."""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class Layout:
    """Where the tokens of an image stand, and in which block they are.

    Attributes:
      grid: rows and columns of the grid of patches.
      prefix: how many tokens (cls, registers) come before the patches, without a place.
      places: row and column of each patch, where they are not those of the whole grid, row by row, which is None.
        Places between those of the grid are allowed.
      layer: the block's number, counted from 0; traced where the blocks are scanned.
    """

    grid: tuple[int, int] = flax.struct.field(pytree_node=False)
    prefix: int = flax.struct.field(pytree_node=False)
    places: Float[Array, "batch patches 2"] | None = None
    layer: int | Int[Array, ""] = 0

    @property
    def tokens(self) -> int:
        """Number of tokens of the prefix and the whole grid."""
        return self.prefix + self.grid[0] * self.grid[1]

    def coordinates(self) -> Float[np.ndarray, "1 patches 2"] | Float[Array, "batch patches 2"]:
        """Returns the row and column of each patch, known when tracing where the grid is whole."""
        return whole_grid(self.grid)[None] if self.places is None else self.places


@flax.struct.dataclass
class GridTokens:
    """Tokens on their way through the blocks, and where they stand.

    Attributes:
      bias: what the attention of every block adds to its scores, or None.
    """

    tokens: Float[Array, "batch tokens width"]
    layout: Layout
    bias: Float[Array, "1 heads tokens tokens"] | None = None


def whole_grid(grid: tuple[int, int]) -> Int[np.ndarray, "patches 2"]:
    """Returns the row and column of each place of a grid, row by row."""
    return np.stack(np.mgrid[: grid[0], : grid[1]], axis=-1).reshape(-1, 2)


def without_prefix(x: Float[Array, "batch tokens ..."], layout: Layout) -> Float[Array, "batch rows columns ..."]:
    """Returns what belongs to the patches, as a map of their grid."""
    return x[:, layout.prefix :].reshape(x.shape[0], *layout.grid, *x.shape[2:])


def with_prefix(
    prefix: Float[Array, "batch prefix ..."], patches: Float[Array, "batch rows columns ..."]
) -> Float[Array, "batch tokens ..."]:
    """Returns what belongs to all tokens, in their order."""
    flat = patches.reshape(patches.shape[0], -1, *patches.shape[3:])
    return jnp.concatenate([prefix, flat], axis=1)
