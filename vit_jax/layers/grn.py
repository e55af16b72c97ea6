"""Global response normalisation."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike


class GlobalResponseNorm(nn.Module):
    """x + scale · (x · N(‖x‖)) + bias, with N the norm of a channel over the map by the mean of all channels'.

    ConvNeXt V2 (Woo et al. 2023, section 3, eqs. 1 to 3): channels compete by how strongly they respond anywhere in the
    image. Scale and bias start at zero, so that it starts as the identity. Norms are taken in float32; the result has
    the type of `x`.
    """

    epsilon: float = 1e-6
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch rows columns channels"]:
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        wide = x.astype(jnp.float32)
        squares = jnp.square(wide).sum((1, 2), keepdims=True)
        # A square root has no gradient at 0, where a channel stands that responds nowhere: it is taken elsewhere.
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        responses = norms / (norms.mean(-1, keepdims=True) + self.epsilon)
        return (wide + scale * (wide * responses) + bias).astype(x.dtype)
