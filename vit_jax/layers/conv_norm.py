"""A convolution with its batch norm and activation."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.batch_norm import BatchNorm
from vit_jax.layers.conv import conv
from vit_jax.layers.types import DTypeLike, Initializer


class ConvNorm(nn.Module):
    """activation(norm(convolution of x)); parameters are `conv` and `norm`. See `vit_jax.layers.conv.conv`.

    Maps `[batch, height, width, inputs]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`.

    Attributes:
      activation: None for none.
      bias: the convolution has one too, although the norm takes it away again, as some published models do.
      norm_dtype: type of the result, where it is not the compute type.
    """

    channels: int
    kernel: int
    stride: int = 1
    groups: int = 1
    activation: Callable[[Array], Array] | None = None
    bias: bool = False
    scale_init: Initializer = nn.initializers.ones
    norm_dtype: DTypeLike | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch rows columns channels"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(self.channels, self.kernel, self.stride, self.groups, bias=self.bias, name="conv", **types)(x)
        types["dtype"] = self.norm_dtype or self.dtype
        x = BatchNorm(scale_init=self.scale_init, name="norm", **types)(x, train)
        return x if self.activation is None else self.activation(x)
