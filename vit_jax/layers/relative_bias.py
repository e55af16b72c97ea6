"""What attention adds to its scores for the relative positions of queries and keys on a grid."""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.layers.dense import Dense
from vit_jax.layers.grid_tokens import Layout
from vit_jax.layers.types import DTypeLike, Initializer

TABLE = "relative_bias/table"
"""What the names of tables end with, `[2 rows - 1, 2 columns - 1, heads]` for a grid of rows and columns."""

OFFSETS = "offset_bias/table"
"""What the names of tables of offsets end with, `[rows, columns, heads]` for a grid of rows and columns."""

CONTINUOUS_WIDTH = 512
"""Hidden width of the perceptron of Swin V2 (Liu et al. 2022, section 3.3)."""


def relative_index(rows: int, columns: int) -> Int[np.ndarray, "tokens tokens"]:
    """Returns, for each query and key of a grid, which row of a flat table of `[2 rows - 1, 2 columns - 1]` is theirs.

    The row is that of query minus key: the first stands for the query in the first row and column, and the key in the
    last ones.
    """
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    down, right = y[:, None] - y + rows - 1, x[:, None] - x + columns - 1
    return down * (2 * columns - 1) + right


def by_pairs(table: Float[Array, "down right heads"], rows: int, columns: int) -> Float[Array, "heads tokens tokens"]:
    """Returns the table's entries for each query and key."""
    flat = table.reshape(-1, table.shape[-1])
    return flat[relative_index(rows, columns)].transpose(2, 0, 1)


class RelativeBias(nn.Module):
    """A learned number for each head and relative position (Liu et al. 2021, Swin, eq. 4; Bao et al. 2022, BEiT).

    Parameters: `table`, `[2 rows - 1, 2 columns - 1, heads]` for the grid at initialisation, and where a cls token
    stands before the grid's tokens `cls`, `[3, heads]`: cls to token, token to cls, cls to itself.

    Raises:
      ValueError: the table is that of another grid.
    """

    heads: int
    cls: bool = False
    init: Initializer = nn.initializers.zeros
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rows: int, columns: int) -> Float[Array, "1 heads tokens tokens"]:
        """Returns what is added to the scores, float32."""
        require_grid(self, (rows, columns))
        shape = (2 * rows - 1, 2 * columns - 1, self.heads)
        table = self.param("table", self.init, shape, self.param_dtype).astype(jnp.float32)
        bias = by_pairs(table, rows, columns)
        if self.cls:
            to_token, from_token, own = self.param("cls", self.init, (3, self.heads), self.param_dtype).astype(
                jnp.float32
            )
            bias = jnp.concatenate([jnp.broadcast_to(from_token[:, None, None], (*bias.shape[:2], 1)), bias], axis=2)
            row = jnp.broadcast_to(to_token[:, None, None], (self.heads, 1, bias.shape[1]))
            bias = jnp.concatenate([jnp.concatenate([own[:, None, None], row], axis=2), bias], axis=1)
        return bias[None]


@flax.struct.dataclass
class OffsetScores:
    """What is added to scores, float32, for the offset of query and key, or for which token of the prefix they are.

    Attributes:
      table: of query minus key, for two patches.
      of_prefix: for each token of the prefix as the query of a patch.
      to_prefix: for each as the key of a patch.
      among_prefix: for two of them, query and key.
    """

    table: Float[Array, "down right heads"]
    of_prefix: Float[Array, "prefix heads"]
    to_prefix: Float[Array, "prefix heads"]
    among_prefix: Float[Array, "prefix prefix heads"]

    def between(
        self, queries: Float[Array, "groups queries 2"], keys: Float[Array, "groups keys 2"]
    ) -> Float[Array, "groups heads queries keys"]:
        """Returns the table's entries for the rows and columns of patches; nearer ones for offsets that it lacks."""
        down, right, heads = self.table.shape
        numpy = np if isinstance(queries, np.ndarray) and isinstance(keys, np.ndarray) else jnp
        steps = numpy.round(queries[:, :, None] - keys[:, None]).astype(int)
        row = numpy.clip(steps[..., 0] + down // 2, 0, down - 1)
        column = numpy.clip(steps[..., 1] + right // 2, 0, right - 1)
        return self.table.reshape(-1, heads)[row * right + column].transpose(0, 3, 1, 2)

    def with_prefix_keys(
        self, between: Float[Array, "groups heads queries keys"]
    ) -> Float[Array, "groups heads queries prefix+keys"]:
        """Returns what is added for patches as queries, where the keys of the prefix come before those of patches."""
        shape = (*between.shape[:3], len(self.to_prefix))
        return jnp.concatenate([jnp.broadcast_to(self.to_prefix.T[:, None], shape), between], axis=-1)

    def prefix_rows(self, patches: int) -> Float[Array, "1 heads prefix prefix+patches"]:
        """Returns what is added for the prefix as queries, of itself and then of all patches."""
        among = self.among_prefix.transpose(2, 0, 1)
        of_patches = jnp.broadcast_to(self.of_prefix.T[:, :, None], (*among.shape[:2], patches))
        return jnp.concatenate([among, of_patches], axis=-1)[None]

    def dense(self, layout: Layout) -> Float[Array, "groups heads tokens tokens"]:
        """Returns what is added for all tokens."""
        places = layout.coordinates()
        patches = self.with_prefix_keys(self.between(places, places))
        rows = self.prefix_rows(places.shape[1])
        return jnp.concatenate([jnp.broadcast_to(rows, (len(patches), *rows.shape[1:])), patches], axis=2)


class OffsetTable(nn.Module):
    """A learned number for each head and relative position of patches, and for each token before them.

    As `RelativeBias` for any number of tokens of the prefix (cls, registers), each of which has numbers of its own,
    and written out only as far as a kind of attention forms scores.
    Parameters, all zero at the beginning: `table`, `[2 rows - 1, 2 columns - 1, heads]` for the grid at
    initialisation, and where there is a prefix `prefix`, `[2, prefix, heads]`: as the query of patches, as their key;
    and `among_prefix`, `[prefix, prefix, heads]`.

    Raises:
      ValueError: the table is that of another grid.
    """

    heads: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, layout: Layout) -> OffsetScores:
        """Returns what is added to the scores of tokens that stand like this."""

        def numbers(name: str, *shape: int) -> Float[Array, "..."]:
            start = nn.initializers.zeros
            return self.param(name, start, (*shape, self.heads), self.param_dtype).astype(jnp.float32)

        require_grid(self, layout.grid)
        rows, columns = layout.grid
        table = numbers("table", 2 * rows - 1, 2 * columns - 1)
        if not layout.prefix:
            none = jnp.zeros((0, self.heads))
            return OffsetScores(table, none, none, jnp.zeros((0, 0, self.heads)))
        of_prefix, to_prefix = numbers("prefix", 2, layout.prefix)
        return OffsetScores(table, of_prefix, to_prefix, numbers("among_prefix", layout.prefix, layout.prefix))


class OffsetBias(nn.Module):
    """A learned number for each head and offset in rows and columns, whatever its sign (Graham et al. 2021, LeViT).

    Parameter: `table`, `[rows, columns, heads]` for the grid at initialisation.

    Raises:
      ValueError: the table is that of another grid.
    """

    heads: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rows: int, columns: int) -> Float[Array, "1 heads tokens tokens"]:
        """Returns what is added to the scores, float32."""
        shape = (rows, columns, self.heads)
        if self.has_variable("params", "table") and (found := self.get_variable("params", "table").shape) != shape:
            raise wrong_grid(found, (rows, columns))
        table = self.param("table", nn.initializers.zeros, shape, self.param_dtype).astype(jnp.float32)
        return by_pairs(mirrored(table, jnp), rows, columns)[None]


def mirrored(table: Float[Array, "rows columns heads"], numpy=np) -> Float[Array, "down right heads"]:
    """Returns a table of offsets as one of relative positions, `[2 rows - 1, 2 columns - 1, heads]`."""
    table = numpy.concatenate([table[:0:-1], table])
    return numpy.concatenate([table[:, :0:-1], table], axis=1)


def resize_offsets(
    table: Float[np.ndarray, "rows columns heads"], shape: tuple[int, int]
) -> Float[np.ndarray, "new_rows new_columns heads"]:
    """Returns a table of offsets for another grid, as `resize_table` makes one of relative positions."""
    rows, columns = shape
    return resize_table(mirrored(table), (2 * rows - 1, 2 * columns - 1))[rows - 1 :, columns - 1 :]


def require_grid(module: nn.Module, grid: tuple[int, int]) -> None:
    """Raises a `ValueError` where a module has a table of relative positions for another grid."""
    if module.has_variable("params", "table"):
        down, right, _ = module.get_variable("params", "table").shape
        if ((down + 1) // 2, (right + 1) // 2) != grid:
            raise wrong_grid(((down + 1) // 2, (right + 1) // 2), grid)


def wrong_grid(made: tuple[int, ...], needed: tuple[int, int]) -> ValueError:
    """Returns the error for a table that is that of another grid."""
    return ValueError(
        f"relative positions are made for a grid of {made[0]}x{made[1]}, but the image needs {needed[0]}x{needed[1]}; "
        "load the weights for that image size"
    )


class ContinuousRelativeBias(nn.Module):
    """16 sigmoid of a small perceptron of log-spaced relative coordinates (Liu et al. 2022, Swin V2, eqs. 3 and 4).

    Nothing depends on the window's size, so that windows may change. Coordinates are divided by the greatest of the
    window that the perceptron was trained for first, where that is known, else by that of this window.
    Parameters: `hidden` and `out`, a Dense layer each.
    """

    heads: int
    trained_window: int = 0
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, rows: int, columns: int) -> Float[Array, "1 heads tokens tokens"]:
        """Returns what is added to the scores, float32 as all of its computation."""
        types = {"dtype": "float32", "param_dtype": self.param_dtype}
        coordinates = jnp.asarray(log_coordinates(rows, columns, self.trained_window))
        hidden = nn.relu(Dense(CONTINUOUS_WIDTH, name="hidden", **types)(coordinates))
        table = 16.0 * nn.sigmoid(Dense(self.heads, use_bias=False, name="out", **types)(hidden))
        return by_pairs(table, rows, columns)[None]


def log_coordinates(rows: int, columns: int, trained_window: int = 0) -> Float[np.ndarray, "down right 2"]:
    """Returns sign(d) log2(1 + |d|) / 3 of distances d that are scaled to [-8, 8] in the trained window."""
    greatest = [max((trained_window or side) - 1, 1) for side in (rows, columns)]
    steps = np.mgrid[1 - rows : rows, 1 - columns : columns].transpose(1, 2, 0)
    scaled = 8.0 * steps / greatest
    return (np.sign(scaled) * np.log2(1.0 + np.abs(scaled)) / 3.0).astype(np.float32)


def resize_table(
    table: Float[np.ndarray, "down right heads"], shape: tuple[int, int]
) -> Float[np.ndarray, "new_down new_right heads"]:
    """Returns a table for another grid: linear between places that lie denser near 0, as BEiT's authors and timm do.

    The table's entries are taken to stand at distances that grow geometrically, 1, 1 + q, 1 + q + q², …, up to the
    greatest of the new grid: near tokens keep their biases, far ones are stretched (Bao et al. 2022, the code).
    """
    down, right = (_between(old, new) for old, new in zip(table.shape, shape, strict=False))
    return np.einsum("ai,bj,ijh->abh", down, right, table.astype(np.float64)).astype(table.dtype)


def _between(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the matrix of linear interpolation along one axis; outside of the known places the nearest is taken."""
    if old == new:
        return np.eye(new)
    steps = np.cumsum(_growth(old // 2, new // 2) ** np.arange(old // 2))
    places = np.concatenate([-steps[::-1], [0.0], steps])
    targets = np.clip(np.arange(new) - new // 2, places[0], places[-1])
    return np.stack([np.interp(targets, places, row) for row in np.eye(old)], axis=1)


def _growth(count: int, greatest: int) -> float:
    """Returns q between 1.01 and 1.5 with 1 + q + … of `count` terms nearest to `greatest`."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**count) / (1 - q) > greatest else (q, high)
    return q
