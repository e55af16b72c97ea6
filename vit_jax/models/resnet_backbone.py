"""The ResNet of a hybrid: big-transfer's layers in the post-activation order (Kolesnikov et al. 2020)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.group_norm import GroupNorm
from vit_jax.layers.standardised_conv import StandardisedConv
from vit_jax.layers.types import DTypeLike

EXPANSION = 4
"""Channels that leave a unit, for each of its inner channels (He et al. 2016, section 4.1)."""


class Root(nn.Module):
    """7x7 convolution with stride 2, norm, ReLU, and 3x3 max pooling with stride 2, padded as TensorFlow's SAME.

    Maps `[batch, height, width, 3]` to `[batch, ceil(height / 4), ceil(width / 4), channels]`.
    """

    channels: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch rows columns channels"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = StandardisedConv(self.channels, (7, 7), 2, name="conv", **types)(images)
        x = nn.relu(GroupNorm(name="norm", **types)(x))
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")  # by name, as jax2onnx wants it


class Unit(nn.Module):
    """Bottleneck: relu(x + norm(conv 1x1)), the branch's inner channels convolved by 1x1 and 3x3 (He et al. 2016).

    Maps `[batch, height, width, inputs]` to `[batch, ceil(height / stride), ceil(width / stride), 4 * channels]`. The
    stride is the 3x3 convolution's; where stride or channels change, x passes a 1x1 convolution and a norm. The
    branch's last scale starts at zero, so that the unit starts as a shortcut. Sums are of the compute type: these
    maps are many times larger than an encoder's tokens.
    """

    channels: int
    stride: int = 1
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        outputs = EXPANSION * self.channels
        branch = StandardisedConv(self.channels, (1, 1), name="conv_0", **types)(x)
        branch = nn.relu(GroupNorm(name="norm_0", **types)(branch))
        branch = StandardisedConv(self.channels, (3, 3), self.stride, name="conv_1", **types)(branch)
        branch = nn.relu(GroupNorm(name="norm_1", **types)(branch))
        branch = StandardisedConv(outputs, (1, 1), name="conv_2", **types)(branch)
        branch = GroupNorm(scale_init=nn.initializers.zeros, name="norm_2", **types)(branch)
        if x.shape[-1] != outputs or self.stride != 1:
            x = StandardisedConv(outputs, (1, 1), self.stride, name="conv_proj", **types)(x)
            x = GroupNorm(name="norm_proj", **types)(x)
        return nn.relu(x + branch)


class Stage(nn.Module):
    """`units` bottlenecks of equal width, the first with `stride`; parameters are `unit_0`, `unit_1`, …"""

    units: int
    channels: int
    stride: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        for i in range(self.units):
            stride = self.stride if i == 0 else 1
            x = Unit(self.channels, stride, self.dtype, self.param_dtype, name=f"unit_{i}")(x)
        return x


class ResNetBackbone(nn.Module):
    """Root and stages, without pooling and classifier; every stage after the first halves the map's sides.

    Maps `[batch, height, width, 3]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`, of the compute
    type, with `backbone_stride` pixels from one place to the next. Inner channels double from stage to stage, from
    `stem_width` on. Parameters: `root`, `stage_0`, `stage_1`, …

    Raises:
      ValueError: a stage has no unit, or `stem_width` does not split into the groups of a norm.
    """

    stages: tuple[int, ...] = (3, 4, 9)
    stem_width: int = 64
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the map, the same in training as in evaluation."""
        if any(units < 1 for units in self.stages):
            raise ValueError(f"stages {self.stages} must hold at least 1 unit each")
        if self.stem_width < 1 or self.stem_width % GroupNorm.groups:
            raise ValueError(f"stem_width {self.stem_width} must be a positive multiple of {GroupNorm.groups} (groups)")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Root(self.stem_width, name="root", **types)(images)
        for i, units in enumerate(self.stages):
            x = Stage(units, self.stem_width * 2**i, 1 if i == 0 else 2, name=f"stage_{i}", **types)(x)
        return x


def backbone_stride(stages: tuple[int, ...]) -> int:
    """Returns the pixels from one place of the map to the next: 4 by the root, twice as many by each stage but one."""
    return 4 * 2 ** max(len(stages) - 1, 0)
