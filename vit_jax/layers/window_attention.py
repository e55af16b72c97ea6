"""Attention inside windows of a map, which may be shifted (Liu et al. 2021, Swin, sections 3.2 and 3.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vit_jax.layers.attention import Attention

MASKED = -100.0
"""What is added to the score of a query and a key that were apart before the shift, as the published models have it."""


def window_of(
    sides: tuple[int, int], window: int, shifted: bool, square_windows: bool = False, deciding_rows: int = 0
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns rows and columns of the windows of a map, and by how much they are shifted.

    No window is larger than the map; along a side that one window spans nothing is shifted. Each side decides for
    itself; with `square_windows` the smaller one, and with `deciding_rows` that number of rows, decides for both.
    """
    if square_windows or deciding_rows:
        sides = (deciding_rows or min(sides),) * 2
    sizes = tuple(min(side, window) for side in sides)
    return sizes, tuple(window // 2 if shifted and side > size else 0 for side, size in zip(sides, sizes, strict=True))


def padding_of(sides: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
    """Returns how many rows and columns are missing from a multiple of the window."""
    return tuple(-side % size for side, size in zip(sides, window, strict=True))


def split_windows(
    x: Float[Array, "batch rows columns width"], window: tuple[int, int]
) -> Float[Array, "batch*windows tokens width"]:
    """Returns the tokens of each window; windows come row by row, those of one image in a row."""
    batch, rows, columns, width = x.shape
    down, right = rows // window[0], columns // window[1]
    x = x.reshape(batch, down, window[0], right, window[1], width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch * down * right, window[0] * window[1], width)


def join_windows(
    windows: Float[Array, "batch*windows tokens width"], window: tuple[int, int], sides: tuple[int, int]
) -> Float[Array, "batch rows columns width"]:
    """Returns the map of which `split_windows` made these windows."""
    down, right = sides[0] // window[0], sides[1] // window[1]
    x = windows.reshape(-1, down, right, *window, windows.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, *sides, windows.shape[-1])


def regions(sides: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Int[np.ndarray, "rows columns"]:
    """Returns for each place of a shifted map a number of the region that it comes from.

    Along a side that is shifted, the last `shift` rows come from the map's other end, and the rest of the last window
    is its old end.
    """
    found = [
        np.digitize(np.arange(side), [side - size, side - step]) if step else np.zeros(side, int)
        for side, size, step in zip(sides, window, shift, strict=True)
    ]
    return found[0][:, None] * 3 + found[1]


def shift_mask(
    sides: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> Float[np.ndarray, "windows 1 tokens tokens"]:
    """Returns 0 for queries and keys of the same region, else `MASKED`."""
    numbers = split_windows(regions(sides, window, shift)[None, :, :, None], window)[:, :, 0]
    apart = numbers[:, :, None] != numbers[:, None, :]
    return np.where(apart, MASKED, 0.0).astype(np.float32)[:, None]


class WindowAttention(Attention):
    """Attention among the tokens of each window of a map, as plain products on every device.

    Published windows have an odd number of tokens, for which cuDNN's fused kernel takes no gradient by a bias. A map
    that the windows do not divide is padded with zeros below and on the right; like all other tokens these are attended
    to. A shifted map is rolled up and to the left, so that windows hold what were neighbours across their borders;
    those that come from opposite ends are masked.

    Attributes:
      window: the greatest rows and columns of a window; a smaller map is a window as a whole.
      shifted: windows are shifted by half of their size.
      square_windows: as Hugging Face has them, square: a map one of whose sides is no larger than the window has
        windows of that side and no shift. It is padded first and then rolled. Else, as timm has them, each side's
        window and shift are its own, and the map is rolled and then padded.
      deciding_rows: rows by which the windows and their shift are chosen in place of the map's sides; 0 for none. Such
        windows may be larger than the map.
    """

    window: int = 7
    shifted: bool = False
    square_windows: bool = False
    deciding_rows: int = 0

    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        key: jax.Array | None = None,
        bias: Float[Array, "1 heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch rows columns width"]:
        """Attends in each window; `bias`, float32, is added to the scores of all windows."""
        rows, columns = x.shape[1:3]
        window, shift = window_of((rows, columns), self.window, self.shifted, self.square_windows, self.deciding_rows)
        padding = [(0, 0), *((0, more) for more in padding_of((rows, columns), window)), (0, 0)]
        x = jnp.pad(x, padding) if self.square_windows else x
        if any(shift):
            x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        x = x if self.square_windows else jnp.pad(x, padding)
        sides = x.shape[1:3]
        if any(shift):
            mask = jnp.asarray(shift_mask(sides, window, shift))
            bias = mask if bias is None else bias + mask
        windows = self.with_keys(split_windows(x, window), key, bias=bias)[0]
        x = join_windows(windows, window, sides)
        x = x if self.square_windows else x[:, :rows, :columns]
        if any(shift):
            x = jnp.roll(x, shift, (1, 2))
        return x[:, :rows, :columns]
