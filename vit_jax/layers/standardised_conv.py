"""Convolution whose kernel is standardised before use."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.product import affine
from vit_jax.layers.types import DTypeLike

EPSILON = 1e-5
"""Added to the standard deviation, not to the variance, as in big-transfer."""


def standardise(kernel: Float[Array, "height width inputs outputs"]) -> Float[Array, "height width inputs outputs"]:
    """Returns the kernel with mean 0 and standard deviation 1 over the inputs of each output, float32."""
    centred = kernel.astype(jnp.float32)
    centred = centred - centred.mean((0, 1, 2), keepdims=True)
    # A square root has no gradient at 0, where a kernel without variance stands: it is taken where it has one.
    variance = jnp.square(centred).mean((0, 1, 2), keepdims=True)
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return centred / (deviation + EPSILON)


class StandardisedConv(nn.Module):
    """Convolution without bias whose kernel is standardised (Qiao et al. 2019, "Weight Standardization").

    Maps `[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), features]`:
    padding is TensorFlow's SAME, with the odd row or column below or to the right. The kernel has the shape
    `[*kernel_size, channels, features]` and is standardised in float32; the product runs in `dtype`.
    """

    features: int
    kernel_size: tuple[int, int]
    stride: int = 1
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows columns features"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        dtype = jnp.dtype(self.dtype or x.dtype)
        if self.kernel_size == (1, 1):
            # A matrix product over the places; on a CPU a training step of the whole ResNet is a quarter faster so.
            return affine(x[:, :: self.stride, :: self.stride], standardise(kernel)[0, 0], None, dtype, dtype)
        return jax.lax.conv_general_dilated(
            x.astype(dtype),
            standardise(kernel).astype(dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
