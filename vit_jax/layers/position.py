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


class PositionEmbed(nn.Module):
    """Adds an embedding of its place to every token.

    `kind` is `learned` (N(0, 0.02²), Dosovitskiy et al. 2021), `sincos2d` (nothing stored; prefix tokens get zero) or
    `none`. `prefix` tokens (cls) come before the `rows * columns` patches and have embeddings of their own.
    """

    kind: str
    prefix: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], rows: int, columns: int
    ) -> Float[Array, "batch tokens width"]:
        shape = (1, self.prefix + rows * columns, tokens.shape[-1])
        if self.kind == "none":
            return tokens
        if self.kind == "sincos2d":
            grid = np.zeros(shape, np.float32)
            grid[:, self.prefix :] = sincos2d(rows, columns, shape[-1])
            return tokens + jnp.asarray(grid, tokens.dtype)
        if self.kind == "learned":
            embedding = self.param("embedding", nn.initializers.normal(0.02), shape, self.param_dtype)
            return tokens + embedding.astype(tokens.dtype)
        raise ValueError(f"position must be 'learned', 'sincos2d' or 'none', not {self.kind!r}")
