"""Layer normalisation in float32, whatever the compute type."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike, Initializer


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "... width"],
    scale: Float[Array, "width"],
    bias: Float[Array, "width"],
    epsilon: float,
    dtype: DTypeLike,
) -> Float[Array, "... width"]:
    """Returns the last axis normalised to mean 0 and variance 1, scaled and shifted, as `dtype` (Ba et al. 2016).

    The backward pass keeps the normalised input in `dtype`, not the float32 input: half the memory in bfloat16.
    """
    return _forward(x, scale, bias, epsilon, dtype)[0]


def _forward(x, scale, bias, epsilon, dtype):
    centred = x.astype(jnp.float32)
    centred = centred - centred.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    normal = centred * inverse
    saved = (normal.astype(dtype), inverse, scale, jnp.empty((0,), x.dtype), jnp.empty((0,), bias.dtype))
    return (normal * scale + bias).astype(dtype), saved


def _backward(epsilon, dtype, saved, gradient):
    normal, inverse, scale, x_type, bias_type = saved
    normal, gradient = normal.astype(jnp.float32), gradient.astype(jnp.float32)
    scaled = gradient * scale
    to_x = scaled - scaled.mean(-1, keepdims=True) - normal * (scaled * normal).mean(-1, keepdims=True)
    others = tuple(range(gradient.ndim - 1))
    to_scale, to_bias = (gradient * normal).sum(others), gradient.sum(others)
    return (to_x * inverse).astype(x_type.dtype), to_scale.astype(scale.dtype), to_bias.astype(bias_type.dtype)


layer_norm.defvjp(_forward, _backward)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis with a learned scale and bias.

    Statistics are taken in float32 and in two passes: the one-pass variance E[x²] - E[x]² that Linen uses by
    default loses digits where the mean is large against the spread, and then misses published outputs.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        return layer_norm(x, scale, bias, self.epsilon, jnp.dtype(self.dtype or x.dtype))
