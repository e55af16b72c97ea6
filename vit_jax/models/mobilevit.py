"""MobileViT (Mehta and Rastegari 2022): inverted residual blocks, and transformers among the patches of their maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.bilinear import resize_bilinear
from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.conv import conv
from vit_jax.layers.conv_norm import ConvNorm
from vit_jax.layers.inverted_residual import InvertedResidual
from vit_jax.layers.mlp import silu
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.types import DTypeLike
from vit_jax.models.stages import Stage, StagedClassifier, hidden_width


def unfold(
    x: Float[Array, "batch rows columns width"], patch_size: tuple[int, int]
) -> Float[Array, "batch*places patches width"]:
    """Returns, for each place in a patch, the sequence of what all patches hold there; sequences of an image in a row.

    The patch size divides the map's sides.
    """
    (height, breadth), (rows, columns, width) = patch_size, x.shape[1:]
    down, right = rows // height, columns // breadth
    x = x.reshape(-1, down, height, right, breadth, width).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, down * right, width)


def fold(
    sequences: Float[Array, "batch*places patches width"], patch_size: tuple[int, int], sides: tuple[int, int]
) -> Float[Array, "batch rows columns width"]:
    """Returns the map of which `unfold` made these sequences."""
    (height, breadth), width = patch_size, sequences.shape[-1]
    down, right = sides[0] // height, sides[1] // breadth
    x = sequences.reshape(-1, height, breadth, down, right, width).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(-1, *sides, width)


class Transformer(nn.Module):
    """Pre-norm encoder blocks with SiLU, `layer_0`, `layer_1`, …, and a norm."""

    depth: int
    heads: int
    mlp_dim: int
    qkv_bias: bool
    norm_epsilon: float
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "sequences patches width"],
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "sequences patches width"]:
        """Applies the blocks, all with one drop path rate; without a key nothing is dropped."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.depth):
            block = EncoderBlock(
                self.heads,
                self.mlp_dim,
                mlp="silu",
                qkv_bias=self.qkv_bias,
                norm_epsilon=self.norm_epsilon,
                attention_kernel="plain",  # the published heads have 16 to 60 channels, mostly no multiple of 8
                name=f"layer_{i}",
                **types,
            )
            x = block(x, None if key is None else jax.random.fold_in(key, i), drop_path_rate)
        return LayerNorm(self.norm_epsilon, name="norm", **types)(x)


class MobileViTBlock(nn.Module):
    """Convolutions see neighbours, a transformer all patches, and a convolution joins x with both (figure 1b).

    A token attends to those in the same place of the other patches. A map that the patches do not divide is enlarged
    before, and made smaller after the transformer, bilinearly, as the published models do.

    Attributes:
      width: channels of the transformer.
      depth: number of its layers.
      kernel_size: of the first and the last convolution.
    """

    width: int
    depth: int
    heads: int = 4
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    patch_size: tuple[int, int] = (2, 2)
    kernel_size: int = 3
    norm_epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns channels"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch rows columns channels"]:
        """Applies the block; without a key nothing is dropped."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels, sides = x.shape[-1], x.shape[1:3]
        seen = ConvNorm(channels, self.kernel_size, activation=silu, name="local", **types)(x, train)
        seen = conv(self.width, 1, bias=False, name="inward", **types)(seen)
        whole = tuple(-(-side // patch) * patch for side, patch in zip(sides, self.patch_size, strict=True))
        sequences = unfold(resize_bilinear(seen, whole), self.patch_size)
        mlp_dim = hidden_width(self.width, self.mlp_ratio)
        transformer = Transformer(
            self.depth, self.heads, mlp_dim, self.qkv_bias, self.norm_epsilon, name="transformer", **types
        )
        seen = fold(transformer(sequences, key, drop_path_rate), self.patch_size, whole)
        seen = resize_bilinear(seen, sides)
        seen = ConvNorm(channels, 1, activation=silu, name="outward", **types)(seen, train)
        both = jnp.concatenate([x, seen], axis=-1)
        return ConvNorm(channels, self.kernel_size, activation=silu, name="fusion", **types)(both, train)


BLOCK_FIELDS = ("heads", "mlp_ratio", "qkv_bias", "patch_size", "kernel_size", "norm_epsilon")
"""What the model, its stages and their MobileViT blocks are told alike."""


class MobileViTStage(Stage):
    """Inverted residual blocks, the first with `stride`; the last block is a MobileViT block, if there is one."""

    width: int = 32
    stride: int = 2
    expand_ratio: float = 4.0
    transformer_depth: int = 0
    transformer_width: int = 0
    heads: int = 4
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    patch_size: tuple[int, int] = (2, 2)
    kernel_size: int = 3
    norm_epsilon: float = 1e-5

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        if self.transformer_depth and i == self.depth - 1:
            fields = {name: getattr(self, name) for name in BLOCK_FIELDS}
            return MobileViTBlock, {**fields, "width": self.transformer_width, "depth": self.transformer_depth}
        stride = self.stride if i == 0 else 1
        return InvertedResidual, {"channels": self.width, "stride": stride, "expand_ratio": self.expand_ratio}


class MobileViT(StagedClassifier):
    """Stem, stages of inverted residual and MobileViT blocks, a convolution by 1x1, mean and a linear classifier.

    The image may have any size: the stem and every stage after the first halve the map's sides, rounded up, so that the
    last map of five stages has one place for every 32x32 pixels.

    Attributes:
      depths: number of blocks of each stage, its MobileViT block, which is the last, included.
      transformer_depths: layers of the transformer in each stage's MobileViT block, 0 for a stage without one.
      transformer_widths: its channels, likewise.
      heads: of its attention.
      mlp_ratio: hidden channels of its MLPs, for each channel.
      qkv_bias: its queries, keys and values have a bias.
      patch_size: height and width of a patch, in places of the map.
      expand_ratio: see `InvertedResidual`.
      kernel_size: of the two convolutions around a transformer, an odd number.
      stem_width: channels of the stem.
      last_width: channels of the convolution before the mean, 0 for none.
      norm_epsilon: of the transformer's norms.
    """

    depths: tuple[int, ...] = (1, 3, 2, 2, 2)
    widths: tuple[int, ...] = (32, 64, 96, 128, 160)
    transformer_depths: tuple[int, ...] = (0, 0, 2, 4, 3)
    transformer_widths: tuple[int, ...] = (0, 0, 144, 192, 240)
    heads: int = 4
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    patch_size: tuple[int, int] = (2, 2)
    expand_ratio: float = 4.0
    kernel_size: int = 3
    stem_width: int = 16
    last_width: int = 640
    norm_epsilon: float = 1e-5

    def setup(self):
        self.check_fields()
        self.check_transformers()
        self.stem = ConvNorm(self.stem_width, 3, 2, activation=silu, **self.types)
        same = {"expand_ratio": self.expand_ratio, **{name: getattr(self, name) for name in BLOCK_FIELDS}}
        each = zip(self.widths, self.transformer_depths, self.transformer_widths, strict=True)
        own = [{"width": width, "transformer_depth": depth, "transformer_width": wide} for width, depth, wide in each]
        self.encoder = self.stages(
            MobileViTStage, [{**same, **of, "stride": 2 if i else 1} for i, of in enumerate(own)]
        )
        if self.last_width:
            self.pre_logits = ConvNorm(self.last_width, 1, activation=silu, **self.types)
        self.set_up_head()

    def check_transformers(self) -> None:
        """Raises a `ValueError` for a field, of those that other networks have not, that no network can have."""
        for field in ("transformer_depths", "transformer_widths"):
            if len(getattr(self, field)) != self.depth or min(getattr(self, field)) < 0:
                raise ValueError(f"{field} {getattr(self, field)} must have a number, 0 or more, for each stage")
        for i, (depth, width) in enumerate(zip(self.transformer_depths, self.transformer_widths, strict=True)):
            if bool(depth) != bool(width):
                raise ValueError(f"stage {i} has a transformer of depth {depth} and width {width}; both are 0, or none")
            if depth and self.depths[i] < 2:
                raise ValueError(f"stage {i} has a transformer, and so at least 2 blocks, not {self.depths[i]}")
        for field in ("heads", "stem_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if min(self.patch_size) < 1:
            raise ValueError(f"patch_size {self.patch_size} must be positive")
        if self.last_width < 0:
            raise ValueError(f"last_width must not be negative, not {self.last_width}")
        if self.mlp_ratio <= 0 or self.expand_ratio <= 0:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} and expand_ratio {self.expand_ratio} must be positive")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, not {self.kernel_size}")

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns last_width"]:
        """Returns the map before pooling."""
        x = self.maps(images, train)[-1]
        return self.pre_logits(x, train) if self.last_width else x
