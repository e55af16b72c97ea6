"""The image cut up as the model sees it."""

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from vit_jax.errors import UserError

WHITE = 255


def cut(
    image: Shaped[np.ndarray, "height width channels"], grid: tuple[int, int]
) -> Shaped[np.ndarray, "rows columns patch_height patch_width channels"]:
    """Returns the patches of a grid.

    An image that the grid does not divide is first enlarged below and on the right by its border pixels.

    Raises:
      UserError: there are more rows or columns than pixels.
    """
    height, width, channels = image.shape
    patch = tuple(-(-side // count) for side, count in zip((height, width), grid, strict=True))
    missing = tuple(size * count - side for size, count, side in zip(patch, grid, (height, width), strict=True))
    if any(more >= side for more, side in zip(missing, (height, width), strict=True)):
        raise UserError(f"an image of {height}x{width} pixels cannot be cut into {grid[0]}x{grid[1]} patches")
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return image.reshape(grid[0], patch[0], grid[1], patch[1], channels).transpose(0, 2, 1, 3, 4)


def apart(
    patches: UInt8[np.ndarray, "rows columns patch_height patch_width 3"], gap: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the patches as one picture, with white between them, `gap` pixels wide."""
    rows, columns, height, width, channels = patches.shape
    framed = np.pad(patches, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=WHITE)
    whole = framed.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), columns * (width + gap), channels)
    return whole[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def enlarged(values: Float[np.ndarray, "rows columns ..."], sides: tuple[int, int]) -> Float[np.ndarray, "h w ..."]:
    """Returns a map with as many rows and columns as an image has pixels, every pixel with its place's value."""
    rows, columns = (np.arange(side) * count // side for side, count in zip(sides, values.shape[:2], strict=True))
    return values[rows[:, None], columns]
