"""ResNet (He et al. 2016, "Deep Residual Learning for Image Recognition") with batch norm, as torchvision has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.batch_norm import BatchNorm
from vit_jax.layers.conv import conv
from vit_jax.layers.drop import drop_path
from vit_jax.layers.types import DTypeLike
from vit_jax.models.stages import Stage, StagedClassifier

EXPANSION = 4
"""Channels that leave a bottleneck, for each of its inner channels (He et al. 2016, section 4.1)."""

RESNETS = {
    "18": {"depths": (2, 2, 2, 2), "bottleneck": False},
    "34": {"depths": (3, 4, 6, 3), "bottleneck": False},
    "50": {"depths": (3, 4, 6, 3), "bottleneck": True},
    "101": {"depths": (3, 4, 23, 3), "bottleneck": True},
    "152": {"depths": (3, 8, 36, 3), "bottleneck": True},
}
"""He et al. 2016, table 1."""


class ResNetStem(nn.Module):
    """7x7 convolution with stride 2, norm, ReLU, and 3x3 max pooling with stride 2; or for small images 3x3 alone.

    Maps `[batch, height, width, 3]` to `[batch, ceil(height / 4), ceil(width / 4), channels]`, with `small` to
    `[batch, height, width, channels]`.
    """

    channels: int
    small: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channels"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kernel, stride = (3, 1) if self.small else (7, 2)
        x = conv(self.channels, kernel, stride, bias=False, name="conv", **types)(images)
        x = nn.relu(BatchNorm(name="norm", **types)(x, train))
        if self.small:
            return x
        # Padded by itself, as jax2onnx knows no padding of a pooling; after ReLU zeros are never the largest.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


class ResNetBlock(nn.Module):
    """relu(x + branch(x)) (He et al. 2016, figure 5).

    The branch is two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1. Each convolution is followed by a norm, all
    but the last by ReLU. Where stride or channels change, x passes a 1x1 convolution and a norm. The branch's last
    scale starts at zero, so that the block starts as a shortcut (Goyal et al. 2017, section 5.1). Sums are of the
    compute type.

    Attributes:
      width: channels of the block's inside; a bottleneck gives four times as many.
      stride_first: a bottleneck's stride is that of its first convolution, as in the paper, not of its 3x3 one, which
        is torchvision's "v1.5".
    """

    width: int
    bottleneck: bool
    stride: int = 1
    stride_first: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns inputs"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float = 0.0,
    ) -> Float[Array, "batch new_rows new_columns outputs"]:
        """Applies the block; without a key nothing is dropped."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def convolved(x, name, channels, kernel, stride=1, scale_init=nn.initializers.ones):
            x = conv(channels, kernel, stride, bias=False, name=f"conv_{name}", **types)(x)
            return BatchNorm(scale_init=scale_init, name=f"norm_{name}", **types)(x, train)

        outputs, branch = self.width * (EXPANSION if self.bottleneck else 1), x
        if self.bottleneck:
            strides = (self.stride, 1) if self.stride_first else (1, self.stride)
            branch = nn.relu(convolved(branch, 0, self.width, 1, strides[0]))
            branch = nn.relu(convolved(branch, 1, self.width, 3, strides[1]))
            branch = convolved(branch, 2, outputs, 1, scale_init=nn.initializers.zeros)
        else:
            branch = nn.relu(convolved(branch, 0, self.width, 3, self.stride))
            branch = convolved(branch, 1, outputs, 3, scale_init=nn.initializers.zeros)
        if x.shape[-1] != outputs or self.stride != 1:
            x = convolved(x, "proj", outputs, 1, self.stride)
        return nn.relu(x + drop_path(key, branch, drop_path_rate))


class ResNetStage(Stage):
    """Blocks of equal width, the first with `stride`."""

    width: int = 64
    bottleneck: bool = False
    stride: int = 1
    stride_first: bool = False

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        fields = {"width": self.width, "bottleneck": self.bottleneck, "stride_first": self.stride_first}
        return ResNetBlock, {**fields, "stride": self.stride if i == 0 else 1}


class ResNet(StagedClassifier):
    """Stem, stages of residual blocks, mean and a linear classifier, for images of any size.

    The map has one place for every 32 x 32 pixels, rounded up (4 stages); every stage after the first halves its sides.
    Convolutions are padded as PyTorch's. Batch norms keep running statistics in the collection `batch_stats`, which
    training makes mutable.

    Attributes:
      widths: channels inside the blocks of each stage; a bottleneck's outputs are four times as many.
      bottleneck: blocks of three convolutions rather than two (ResNet-50 and deeper).
      stem_width: channels of the stem.
      small_stem: for images of 32 pixels: 3x3 with stride 1 in place of 7x7 with stride 2 and pooling.
      downsample_first: the first stage too begins by halving the map.
      stride_first: see `ResNetBlock`.
    """

    bottleneck: bool = True
    stem_width: int = 64
    small_stem: bool = False
    downsample_first: bool = False
    stride_first: bool = False

    def setup(self):
        self.check_fields()
        if self.stem_width < 1:
            raise ValueError(f"stem_width must be at least 1, not {self.stem_width}")
        self.stem = ResNetStem(self.stem_width, self.small_stem, **self.types)
        fields = {"bottleneck": self.bottleneck, "stride_first": self.stride_first}
        each = [{"width": width, "stride": self.stride(i), **fields} for i, width in enumerate(self.widths)]
        self.encoder = self.stages(ResNetStage, each)
        self.set_up_head()

    def stride(self, stage: int) -> int:
        """Returns the stride of a stage's first block."""
        return 2 if stage or self.downsample_first else 1

    def outputs(self, stage: int) -> int:
        """Returns the channels that leave a stage; those of the stem before the first (-1)."""
        return self.stem_width if stage < 0 else self.widths[stage] * (EXPANSION if self.bottleneck else 1)

    def projects(self, stage: int) -> bool:
        """Returns whether a stage's first block has a convolution beside its branch."""
        return self.stride(stage) != 1 or self.outputs(stage) != self.outputs(stage - 1)
