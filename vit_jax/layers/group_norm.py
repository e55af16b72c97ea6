"""Group normalisation in float32, whatever the compute type."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike, Initializer


class GroupNorm(nn.Module):
    """Normalises each group of neighbouring channels over the image (Wu & He 2018), then scales and shifts channels.

    Statistics are taken in float32 and in two passes, as those of `LayerNorm` are; the result has the type `dtype`.

    Raises:
      ValueError: the number of channels is not a multiple of that of groups.
    """

    groups: int = 32
    epsilon: float = 1e-6
    scale_init: Initializer = nn.initializers.ones
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"{channels} channels are not a multiple of {self.groups} groups")
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        grouped = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (normal * scale + bias).astype(self.dtype or x.dtype)
