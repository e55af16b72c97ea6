"""Positions that depend on what stands around a token (Chu et al. 2021, "Conditional Positional Encodings")."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.conv import conv
from vit_jax.layers.grid_tokens import GridTokens
from vit_jax.layers.types import DTypeLike


class ConditionalPosition(nn.Module):
    """Adds to every patch's token a 3x3 depthwise convolution of the grid (PEG, section 3.3 of the paper).

    The zeros beyond the border tell a token where it stands; inside, a shifted image has shifted tokens, and the image
    may have any size. The first `prefix` tokens (cls, registers) have no place in the grid and pass by. Parameters:
    `conv/kernel`, `[3, 3, 1, width]`, and `conv/bias`. The sum is of the type of the tokens.
    """

    prefix: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], rows: int, columns: int
    ) -> Float[Array, "batch tokens width"]:
        batch, _, width = tokens.shape
        first, patches = tokens[:, : self.prefix], tokens[:, self.prefix :]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layer = conv(width, 3, groups=width, name="conv", kernel_init=nn.initializers.lecun_normal(), **types)
        around = layer(patches.reshape(batch, rows, columns, width)).reshape(patches.shape)
        return jnp.concatenate([first, patches + around.astype(patches.dtype)], axis=1)


def conditioned(
    layer: ConditionalPosition, grid: tuple[int, int], x: Float[Array, "batch tokens width"] | GridTokens
) -> Float[Array, "batch tokens width"] | GridTokens:
    """Returns tokens on their way through the blocks after the layer."""
    return x.replace(tokens=layer(x.tokens, *grid)) if isinstance(x, GridTokens) else layer(x, *grid)
