"""Position embeddings of the patch grid."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike


def sincos2d(rows: int, columns: int, width: int, temperature: float = 1e4) -> Float[np.ndarray, "tokens width"]:
    """Returns fixed embeddings [sin x, cos x, sin y, cos y] of a grid, row by row (Chen et al. 2021, MoCo v3).

    Frequencies are temperature^(-i/(width/4 - 1)), as in big_vision.

    Raises:
      ValueError: the width is not a multiple of 4.
    """
    if width % 4 or width < 8:
        raise ValueError(f"sincos2d needs a width that is a multiple of 4 and at least 8, not {width}")
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    omega = temperature ** -(np.arange(width // 4) / (width // 4 - 1))
    x, y = np.outer(x, omega), np.outer(y, omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)


def sinusoidal1d(tokens: int, width: int, temperature: float = 1e4) -> Float[np.ndarray, "tokens width"]:
    """Returns fixed embeddings of a sequence's places, sines and cosines in turn (Vaswani et al. 2017, section 3.5).

    Raises:
      ValueError: the width is odd.
    """
    if width % 2:
        raise ValueError(f"sinusoidal1d needs an even width, not {width}")
    angles = np.outer(np.arange(tokens), temperature ** -(np.arange(0, width, 2) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(tokens, width).astype(np.float32)


POSITIONS = ("learned", "sincos2d", "sinusoidal1d", "rope2d", "relative", "none")
"""The values of `position`: `rope2d` and `relative` are part of the attention, and nothing is added to tokens."""


class PositionEmbed(nn.Module):
    """Adds an embedding of its place to every token.

    `kind` is `learned` (N(0, 0.02²), Dosovitskiy et al. 2021), or `sincos2d` or `sinusoidal1d`, for which nothing is
    stored and prefix tokens get zero; the latter counts patches row by row and knows no columns. `none`, `rope2d` (see
    `vit_jax.layers.rope`) and `relative` (see `vit_jax.layers.relative_bias`) add nothing here. `prefix` tokens (cls)
    come before the `rows * columns` patches and have embeddings of their own.
    """

    kind: str
    prefix: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], rows: int, columns: int
    ) -> Float[Array, "batch tokens width"]:
        shape = (1, self.prefix + rows * columns, tokens.shape[-1])
        if self.kind in ("none", "rope2d", "relative"):
            return tokens
        if self.kind in ("sincos2d", "sinusoidal1d"):
            grid = np.zeros(shape, np.float32)
            two = self.kind == "sincos2d"
            width = shape[-1]
            grid[:, self.prefix :] = sincos2d(rows, columns, width) if two else sinusoidal1d(rows * columns, width)
            return tokens + jnp.asarray(grid, tokens.dtype)
        if self.kind == "learned":
            embedding = self.param("embedding", nn.initializers.normal(0.02), shape, self.param_dtype)
            return tokens + embedding.astype(tokens.dtype)
        raise ValueError(f"position must be one of {', '.join(POSITIONS)}, not {self.kind!r}")
