"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s") and ConvNeXt V2 (Woo et al. 2023)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.conv import conv
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import drop_path
from vit_jax.layers.grn import GlobalResponseNorm
from vit_jax.layers.layer_scale import LayerScale
from vit_jax.layers.mlp import gelu
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.types import DTypeLike
from vit_jax.models.stages import Stage, StagedClassifier

KERNEL_INIT = nn.initializers.truncated_normal(0.02)
MLP_RATIO = 4


class ConvNeXtStem(nn.Module):
    """Projects non-overlapping patches, then normalises them; rows and columns that fill no patch are left out.

    Maps `[batch, height, width, 3]` to `[batch, height // patch, width // patch, channels]`.
    """

    channels: int
    patch_size: int
    norm_epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channels"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        patch = self.patch_size
        x = conv(self.channels, patch, patch, padding=0, kernel_init=KERNEL_INIT, name="conv", **types)(images)
        return LayerNorm(self.norm_epsilon, dtype="float32", param_dtype=self.param_dtype, name="norm")(x)


class Downsample(nn.Module):
    """A norm, then a 2x2 convolution with stride 2; an odd row or column at the end is left out."""

    channels: int
    norm_epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch rows columns inputs"]) -> Float[Array, "batch half half channels"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = LayerNorm(self.norm_epsilon, name="norm", **types)(x)
        x = conv(self.channels, 2, 2, padding=0, kernel_init=KERNEL_INIT, name="conv", **types)(x)
        return x.astype(jnp.float32)


class ConvNeXtMlp(nn.Module):
    """Dense, GELU, global response norm where there is one, Dense, at every place of the map."""

    gelu: str
    grn: bool
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch rows columns width"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype, "kernel_init": KERNEL_INIT}
        hidden = Dense(MLP_RATIO * x.shape[-1], name="dense_0", **types)(x)
        hidden = gelu(hidden, self.gelu == "tanh")
        if self.grn:
            hidden = GlobalResponseNorm(param_dtype=self.param_dtype, name="grn")(hidden)
        return Dense(x.shape[-1], name="dense_1", out_dtype=jnp.float32, **types)(hidden)


class ConvNeXtBlock(nn.Module):
    """x + scale · mlp(norm(depthwise convolution of x)) (Liu et al. 2022, figure 4).

    The sum is float32, as the residual stream of an encoder is.
    """

    kernel_size: int = 7
    gelu: str = "exact"
    grn: bool = False
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float = 0.0,
    ) -> Float[Array, "batch rows columns width"]:
        """Applies the block; without a key nothing is dropped."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        branch = conv(width, self.kernel_size, groups=width, kernel_init=KERNEL_INIT, name="conv", **types)(x)
        branch = LayerNorm(self.norm_epsilon, name="norm", **types)(branch)
        branch = ConvNeXtMlp(self.gelu, self.grn, name="mlp", **types)(branch)
        if self.layer_scale is not None:
            branch = LayerScale(self.layer_scale, self.param_dtype, name="layer_scale")(branch)
        return x + drop_path(key, branch, drop_path_rate)


BLOCK_FIELDS = ("kernel_size", "gelu", "grn", "layer_scale", "norm_epsilon")
"""What the model, its stages and their blocks are told alike."""


class ConvNeXtStage(Stage):
    """Blocks of equal width, after a `downsample` where the map changes."""

    width: int = 96
    downsample: bool = True
    kernel_size: int = 7
    gelu: str = "exact"
    grn: bool = False
    layer_scale: float | None = 1e-6
    norm_epsilon: float = 1e-6

    def enter(
        self, x: Float[Array, "batch rows columns inputs"], train: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        """Returns the map that enters the first block."""
        if not self.downsample:
            return x
        return Downsample(self.width, self.norm_epsilon, self.dtype, self.param_dtype, name="downsample")(x)

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        return ConvNeXtBlock, {name: getattr(self, name) for name in BLOCK_FIELDS}


class ConvNeXt(StagedClassifier):
    """Patch stem, stages of ConvNeXt blocks, mean, norm and a linear classifier.

    Every stage after the first halves the map's sides. The image may have any size that leaves a place in the last map;
    rows and columns beyond a whole number of patches, and an odd one in a map that is halved, are left out, as
    PyTorch's convolutions do.

    Attributes:
      patch_size: height and width of a patch of the stem, in pixels.
      kernel_size: of the depthwise convolutions, an odd number.
      gelu: `exact` as in all published weights, or `tanh`.
      grn: global response norms in the MLPs (V2).
      layer_scale: what the branches' gains start at, or None without them (V2).
      pool_norm: the final norm comes after the pooling, not before it.
      norm_epsilon: of all norms but the final one, whose is `final_norm_epsilon`.
      downsample_first: the first stage too begins by halving the map.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    patch_size: int = 4
    kernel_size: int = 7
    gelu: str = "exact"
    grn: bool = False
    layer_scale: float | None = 1e-6
    pool_norm: bool = True
    norm_epsilon: float = 1e-6
    final_norm_epsilon: float = 1e-6
    downsample_first: bool = False

    def setup(self):
        self.check_fields()
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, not {self.patch_size}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, not {self.kernel_size}")
        if self.gelu not in ("tanh", "exact"):
            raise ValueError(f"gelu must be 'tanh' or 'exact', not {self.gelu!r}")
        self.stem = ConvNeXtStem(self.widths[0], self.patch_size, self.norm_epsilon, **self.types)
        fields = {name: getattr(self, name) for name in BLOCK_FIELDS}
        each = [{"width": width, "downsample": self.halves(i), **fields} for i, width in enumerate(self.widths)]
        self.encoder = self.stages(ConvNeXtStage, each)
        self.norm = LayerNorm(self.final_norm_epsilon, **self.types)
        self.set_up_head()

    def halves(self, stage: int) -> bool:
        """Returns whether a stage begins by halving the map."""
        return stage > 0 or self.downsample_first

    @property
    def stride(self) -> int:
        """Pixels from one place of the last map to the next, which is also the smallest side of an image."""
        return self.patch_size * 2 ** sum(map(self.halves, range(self.depth)))

    def first_map(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns width"]:
        """Returns the map that enters the first stage.

        Raises:
          ValueError: nothing of the image would be left in the last map.
        """
        height, width = images.shape[1:3]
        if min(height, width) < self.stride:
            raise ValueError(f"image {height}x{width} is smaller than {self.stride} pixels, the model's stride")
        return super().first_map(images, train)

    def last(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch rows columns width"]:
        """Returns the map that is pooled."""
        return x if self.pool_norm else self.norm(x)

    def pooled(self, x: Float[Array, "batch rows columns width"]) -> Float[Array, "batch width"]:
        """Returns one vector an image."""
        x = super().pooled(x)
        return self.norm(x) if self.pool_norm else x
