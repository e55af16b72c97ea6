"""Where on the image the tokens are that attend to each other, and attention laid back onto it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vit_jax.errors import UserError
from vit_jax.explanation.attention import Sown, number_of
from vit_jax.layers.window_attention import padding_of, split_windows, window_of
from vit_jax.models.mobilevit import MobileViT, unfold
from vit_jax.models.stages import StagedClassifier
from vit_jax.models.swin import SwinTransformer

NOWHERE = -1
"""The place of a token that is at none: cls, dist, registers, and padding."""


@dataclasses.dataclass(frozen=True)
class AttentionLayer:
    """The attention of one layer, and where its tokens are.

    Attributes:
      name: as `vit_jax.explanation.attention.in_order` gives it.
      weights: of each group of tokens that attend to each other: all of them, those of a window (Swin), or those in
        the same place of all patches (MobileViT).
      places: the number of each key's place on a grid, row by row, or `NOWHERE`; the same for the queries, unless a
        probe alone asks (attention pooling).
      grid: rows and columns of the places.
    """

    name: str
    weights: Float[np.ndarray, "batch groups heads queries keys"]
    places: Int[np.ndarray, "groups keys"]
    grid: tuple[int, int]

    @property
    def everywhere(self) -> bool:
        """Whether all tokens attend to each other."""
        return len(self.places) == 1 and self.weights.shape[-2] == self.weights.shape[-1]

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the image, where all attend to each other."""
        return int((self.places[0] == NOWHERE).sum())

    def asked(
        self, queries: Float[np.ndarray, "#batch groups queries"] | None = None
    ) -> Float[np.ndarray, "batch heads rows columns"]:
        """Returns the attention that each place receives, summed over the queries with a weight for each.

        Args:
          queries: their weights; None: all places alike, the sum of weights being 1. Then the map sums to 1 less what
            goes to tokens that are nowhere.
        """
        queries = self.all_alike() if queries is None else queries
        batch, groups, heads, _, keys = self.weights.shape
        queries = np.broadcast_to(queries, (batch, *queries.shape[1:]))
        received = np.einsum("bgq,bghqk->bhgk", queries, self.weights).reshape(batch, heads, groups * keys)
        found = np.zeros((batch, heads, self.grid[0] * self.grid[1]), np.float32)
        somewhere = self.places.reshape(-1) != NOWHERE
        found[:, :, self.places.reshape(-1)[somewhere]] = received[:, :, somewhere]
        return found.reshape(batch, heads, *self.grid)

    def all_alike(self) -> Float[np.ndarray, "1 groups queries"]:
        """Returns equal weights for the queries of all places; those that are nowhere have none."""
        if self.weights.shape[-2] != self.weights.shape[-1]:
            return np.full((1, 1, self.weights.shape[-2]), 1 / self.weights.shape[-2], np.float32)
        somewhere = (self.places != NOWHERE).astype(np.float32)
        return (somewhere / somewhere.sum())[None]

    def only(self, row: int, column: int) -> Float[np.ndarray, "1 groups queries"]:
        """Returns weights of the queries that ask for one place alone.

        Raises:
          UserError: there is no such place, or the layer's queries are at none.
        """
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise UserError(f"{self.name} has {rows}x{columns} places; there is no {row},{column} (counted from 0)")
        if self.weights.shape[-2] != self.weights.shape[-1]:
            raise UserError(f"in {self.name} a learned probe attends, no place does; choose another layer")
        return (self.places == row * columns + column).astype(np.float32)[None]


def placed(module: nn.Module, variables: dict, sown: Sown, image_size: tuple[int, int]) -> dict[str, AttentionLayer]:
    """Returns the layers with their places, by name.

    Args:
      sown: weights, or their gradients, of images of that height and width.

    Raises:
      UserError: nobody told where the tokens of such a model are.
    """
    if isinstance(module, StagedClassifier):
        sides = map_sides(module, variables, image_size)
    elif hasattr(module, "patches"):
        grid = patch_grid(module, variables, image_size)
    else:
        raise UserError(f"where the tokens of a {type(module).__name__} are on the image is not known")
    layers = {}
    for name, weights in sown.items():
        if isinstance(module, StagedClassifier):
            stage, block = number_of(name)[:2]
            places, whole = staged_places(module, stage, block, sides[stage])
        else:
            whole, count = grid, grid[0] * grid[1]
            before = weights.shape[-1] - count
            places = np.concatenate([np.full(before, NOWHERE), np.arange(count)])[None]
        weights = np.asarray(weights, np.float32)
        if places.shape[1] != weights.shape[-1]:
            raise UserError(f"where the {weights.shape[-1]} tokens of {name} are on the image is not known")
        layers[name] = AttentionLayer(name, weights.reshape(-1, len(places), *weights.shape[1:]), places, whole)
    return layers


def patch_grid(module: nn.Module, variables: dict, image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of the patches of a model of tokens.

    Raises:
      UserError: its tokens are not those of a grid.
    """
    found = []

    def look(variables, images):
        if hasattr(module, "placed_tokens"):
            x = module.apply(variables, images, False, method="placed_tokens")
            found.append((x.tokens.shape[1] - x.layout.prefix, x.layout.grid))
            return x.tokens
        patches, grid = module.apply(variables, images, method="patches")
        found.append((patches.shape[1], grid))
        return patches

    jax.eval_shape(look, variables, jnp.zeros((1, *image_size, 3)))
    patches, grid = found[0]
    if patches != grid[0] * grid[1]:
        raise UserError(
            f"the patches of this {type(module).__name__} are of several sizes, chosen by the image: they make no grid "
            "to show anything on"
        )
    return tuple(grid)


def map_sides(module: StagedClassifier, variables: dict, image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns rows and columns of the map of each stage."""
    images = jnp.zeros((1, *image_size, 3))
    maps = jax.eval_shape(lambda v, x: module.apply(v, x, method="maps"), variables, images)
    return [x.shape[1:3] for x in maps]


def staged_places(
    module: StagedClassifier, stage: int, block: int, sides: tuple[int, int]
) -> tuple[Int[np.ndarray, "groups keys"], tuple[int, int]]:
    """Returns the places of the groups of one block, and rows and columns of the map that they are on."""
    if isinstance(module, SwinTransformer):
        window = module.of_stages("window_size", least=1)[stage]
        rows = module.of_stages("deciding_rows", least=0)[stage]
        return window_places(sides, window, block % 2 == 1, module.square_windows, rows), sides
    if isinstance(module, MobileViT):  # which enlarges a map that its patches do not divide
        sides = tuple(-(-side // patch) * patch for side, patch in zip(sides, module.patch_size, strict=True))
        return unfold(numbers(sides), module.patch_size)[..., 0], sides
    return numbers(sides).reshape(1, -1), sides


def numbers(sides: tuple[int, int]) -> Int[np.ndarray, "1 rows columns 1"]:
    """Returns the numbers of the places of a map, as one image of one channel."""
    return np.arange(sides[0] * sides[1]).reshape(1, *sides, 1)


def window_places(
    sides: tuple[int, int], window: int, shifted: bool, square_windows: bool, deciding_rows: int = 0
) -> Int[np.ndarray, "windows tokens"]:
    """Returns the places of the tokens of each window, as `vit_jax.layers.window_attention.WindowAttention` cuts them.

    Args:
      sides: rows and columns of the map.
      window, shifted, square_windows, deciding_rows: its fields.
    """
    sizes, shift = window_of(sides, window, shifted, square_windows, deciding_rows)
    padding = [(0, 0), *((0, more) for more in padding_of(sides, sizes)), (0, 0)]
    steps = [
        lambda x: np.roll(x, (-shift[0], -shift[1]), (1, 2)),
        lambda x: np.pad(x, padding, constant_values=NOWHERE),
    ]
    x = numbers(sides)
    for step in reversed(steps) if square_windows else steps:
        x = step(x)
    return split_windows(x, sizes)[..., 0]
