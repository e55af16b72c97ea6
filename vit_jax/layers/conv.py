"""Convolutions padded alike on all sides, as PyTorch's are."""

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vit_jax.layers.depthwise import convolved, depthwise
from vit_jax.layers.product import PRODUCT, affine
from vit_jax.layers.types import DTypeLike, Initializer

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, by fan-out, as ResNets start."""


class Conv(nn.Module):
    """A convolution, whose kernel is `[kernel, kernel, inputs / groups, channels]`; see `conv`.

    Operands and result are of the compute type. A product over the places takes the place of a convolution by 1x1.
    """

    channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    use_bias: bool
    kernel_init: Initializer
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns channels"]:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), self.param_dtype) if self.use_bias else None
        dtype = jnp.dtype(self.dtype or x.dtype)
        if self.kernel == self.groups == 1 and not self.padding:
            return affine(x[:, :: self.stride, :: self.stride], kernel[0, 0], bias, dtype, dtype)
        if self.groups == x.shape[-1] == self.channels:
            x = depthwise(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding)
        else:
            x = convolved(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding, self.groups)
        return checkpoint_name(x if bias is None else x + bias.astype(dtype), PRODUCT)


def conv(
    channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    bias: bool = True,
    name: str | None = None,
    kernel_init: Initializer = HE_NORMAL,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Conv:
    """Returns a convolution by `kernel` x `kernel`, padded on every side by half of that unless `padding` says more.

    Maps `[batch, height, width, inputs]` to `[batch, rows, columns, channels]`; without `padding`, rows are
    ceil(height / stride) for an odd kernel. With stride 2, TensorFlow's SAME would start a pixel later.

    Args:
      groups: the channels of inputs and outputs are split into so many; as many as there are inputs is a depthwise
        convolution.
      kernel_init: by default He et al. 2015, by fan-out, as ResNets start.
    """
    pad = kernel // 2 if padding is None else padding
    return Conv(channels, kernel, stride, pad, groups, bias, kernel_init, dtype, param_dtype, name=name)
