"""The inverted residual block of MobileNets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.conv_norm import ConvNorm
from vit_jax.layers.drop import drop_path
from vit_jax.layers.mlp import silu
from vit_jax.layers.types import DTypeLike


class InvertedResidual(nn.Module):
    """x + branch(x): widened by 1x1, convolved channel by channel, narrowed by 1x1 (Sandler et al. 2018, figure 3b).

    Each convolution is followed by a norm, all but the last by SiLU as in MobileViT. Where stride or channels change
    there is no shortcut, and then nothing is ever dropped. The last scale of a branch beside a shortcut starts at zero,
    so that the block starts as one. Sums are of the compute type.

    Attributes:
      expand_ratio: channels inside for each channel that enters, rounded by `rounded`.
    """

    channels: int
    stride: int = 1
    expand_ratio: float = 4.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns inputs"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch new_rows new_columns channels"]:
        """Applies the block; without a key nothing is dropped."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        inside, shortcut = rounded(x.shape[-1] * self.expand_ratio), self.stride == 1 and x.shape[-1] == self.channels
        branch = ConvNorm(inside, 1, activation=silu, name="expand", **types)(x, train)
        branch = ConvNorm(inside, 3, self.stride, inside, silu, name="depthwise", **types)(branch, train)
        start = nn.initializers.zeros if shortcut else nn.initializers.ones
        branch = ConvNorm(self.channels, 1, scale_init=start, name="project", **types)(branch, train)
        return x + drop_path(key, branch, drop_path_rate) if shortcut else branch


def rounded(channels: float) -> int:
    """Returns a multiple of 8 near to a number of channels, at least 8 and at least nine tenths of it (MobileNetV2)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
