"""EfficientFormer (Li et al. 2022, "EfficientFormer: Vision Transformers at MobileNet Speed")."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.layers.batch_norm import BatchNorm
from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.conv_norm import ConvNorm
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import drop_path, dropout
from vit_jax.layers.layer_scale import LayerScale
from vit_jax.layers.mlp import gelu
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.relative_bias import OffsetBias
from vit_jax.layers.types import DTypeLike
from vit_jax.models.stages import Stage, StagedClassifier, hidden_width


class EfficientFormerStem(nn.Module):
    """Two 3x3 convolutions with stride 2, each with norm and ReLU, the first to half of the channels (figure 3).

    Maps `[batch, height, width, 3]` to `[batch, ceil(height / 4), ceil(width / 4), channels]`.
    """

    channels: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool
    ) -> Float[Array, "batch rows columns channels"]:
        fields = {"bias": True, "dtype": self.dtype, "param_dtype": self.param_dtype}
        x = ConvNorm(self.channels // 2, 3, 2, activation=nn.relu, name="layer_0", **fields)(images, train)
        return ConvNorm(self.channels, 3, 2, activation=nn.relu, norm_dtype=jnp.float32, name="layer_1", **fields)(
            x, train
        )


class NormMlp(nn.Module):
    """Dense, batch norm, GELU, Dense, batch norm, at every place of the map; float32, as the residual stream is."""

    mlp_dim: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows columns width"], train: bool
    ) -> Float[Array, "batch rows columns width"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        hidden = Dense(self.mlp_dim, name="dense_0", **types)(x)
        hidden = gelu(BatchNorm(name="norm_0", **types)(hidden, train), False)
        out = Dense(x.shape[-1], out_dtype=jnp.float32, name="dense_1", **types)(hidden)
        return BatchNorm(name="norm_1", dtype=jnp.float32, param_dtype=self.param_dtype)(out, train)


def pooled_neighbours(
    x: Float[Array, "batch rows columns width"], size: int
) -> Float[Array, "batch rows columns width"]:
    """Returns the mean of the places around each that are in the map, `size` x `size` at most; `size` is odd."""
    sums = nn.avg_pool(x, window_shape=(size, size), strides=(1, 1), padding="SAME")  # named, as jax2onnx wants it
    within = [np.minimum(np.arange(side), size // 2) for side in x.shape[1:3]]
    rows, columns = (ahead + ahead[::-1] + 1 for ahead in within)
    return sums * jnp.asarray((size * size / (rows[:, None] * columns))[..., None], x.dtype)


class PoolingBlock(nn.Module):
    """x + scale · (mean of neighbours - x), then x + scale · mlp(x) (section 4.1, MB4D; Yu et al. 2022, PoolFormer)."""

    mlp_dim: int
    pool_size: int = 3
    layer_scale: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch rows columns width"]:
        """Applies the block; without a key nothing is dropped."""
        keys = (None, None) if key is None else jax.random.split(key)
        mlp = NormMlp(self.mlp_dim, self.dtype, self.param_dtype, name="mlp")
        scales = [LayerScale(self.layer_scale, self.param_dtype, name=f"layer_scale_{i}") for i in (0, 1)]
        x = x + drop_path(keys[0], scales[0](pooled_neighbours(x, self.pool_size) - x), drop_path_rate)
        return x + drop_path(keys[1], scales[1](mlp(x, train)), drop_path_rate)


class AttentionBlock(EncoderBlock):
    """A pre-norm encoder block among all places of a map, whose scores have a bias for each offset (section 4.1, MB3D).

    Queries and keys have `head_dim` channels a head, values `value_dim` (Graham et al. 2021, LeViT).
    """

    head_dim: int = 32
    value_dim: int = 128

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns width"],
        train: bool,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch rows columns width"]:
        """Applies the block; without a key nothing is dropped."""
        rows, columns, width = x.shape[1:]
        bias = OffsetBias(self.heads, self.param_dtype, name="offset_bias")(rows, columns)
        tokens = super().__call__(x.reshape(-1, rows * columns, width), key, drop_path_rate, bias)
        return tokens.reshape(-1, rows, columns, width)


BLOCK_FIELDS = ("mlp_ratio", "pool_size", "layer_scale", "heads", "head_dim", "value_dim", "norm_epsilon")
"""What the model, its stages and their blocks are told alike."""


class EfficientFormerStage(Stage):
    """A convolution that halves the map, but for the first stage, then pooling blocks, then attention blocks."""

    width: int = 48
    downsample: bool = True
    attention_blocks: int = 0
    mlp_ratio: float = 4.0
    pool_size: int = 3
    layer_scale: float = 1e-5
    heads: int = 8
    head_dim: int = 32
    value_dim: int = 128
    norm_epsilon: float = 1e-5

    def enter(
        self, x: Float[Array, "batch rows columns inputs"], train: bool
    ) -> Float[Array, "batch new_rows new_columns width"]:
        """Returns the map that enters the first block."""
        if not self.downsample:
            return x
        return ConvNorm(
            self.width,
            3,
            2,
            bias=True,
            norm_dtype=jnp.float32,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="downsample",
        )(x, train)

    def block(self, i: int) -> tuple[type[nn.Module], dict[str, object]]:
        """Returns the class and the fields of one block."""
        mlp_dim = hidden_width(self.width, self.mlp_ratio)
        if i < self.depth - self.attention_blocks:
            return PoolingBlock, {"mlp_dim": mlp_dim, "pool_size": self.pool_size, "layer_scale": self.layer_scale}
        same = ("heads", "head_dim", "value_dim", "layer_scale", "norm_epsilon")
        fields = {name: getattr(self, name) for name in same}
        return AttentionBlock, {**fields, "mlp_dim": mlp_dim, "gelu": "exact", "attention_kernel": "plain"}


class EfficientFormer(StagedClassifier):
    """Stem, stages of pooling blocks, the last with attention blocks, norm, mean, and a head, or the mean of two.

    The image may have any size: the stem makes one place of 4x4 pixels, every stage after the first halves the map's
    sides, rounded up. Attention adds a number for each offset in the last map, so that its parameters are those of the
    image's size at initialisation; the published ones are for 224 pixels, 7x7 places, and are resized for others where
    weights are loaded for an image size (see `vit_jax.pretrained.surgery`).

    Attributes:
      attention_blocks: how many blocks of the last stage, at its end, attend.
      mlp_ratio: hidden channels of an MLP, for each channel.
      pool_size: side of the neighbourhood that a pooling block averages, an odd number of places.
      layer_scale: what the branches' gains start at.
      heads: of the attention.
      head_dim: channels of a head's queries and keys.
      value_dim: channels of its values.
      norm_epsilon: of the layer norms, the final one included.
      dist_classifier: there is a second head, `head_dist`, that learns from a teacher, as in the published models.
        Evaluation takes the mean of both heads' logits; `token_logits` returns them apart.
    """

    depths: tuple[int, ...] = (3, 2, 6, 4)
    widths: tuple[int, ...] = (48, 96, 224, 448)
    attention_blocks: int = 1
    mlp_ratio: float = 4.0
    pool_size: int = 3
    layer_scale: float = 1e-5
    heads: int = 8
    head_dim: int = 32
    value_dim: int = 128
    norm_epsilon: float = 1e-5
    dist_classifier: bool = True

    def setup(self):
        self.check_fields()
        for field in ("heads", "head_dim", "value_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if not 0 <= self.attention_blocks <= self.depths[-1]:
            raise ValueError(f"attention_blocks must be from 0 to {self.depths[-1]}, not {self.attention_blocks}")
        if self.pool_size < 1 or self.pool_size % 2 == 0:
            raise ValueError(f"pool_size must be odd and positive, not {self.pool_size}")
        if self.mlp_ratio <= 0 or self.widths[0] < 2:
            raise ValueError(f"mlp_ratio {self.mlp_ratio} must be positive, widths {self.widths} begin with 2 or more")
        self.stem = EfficientFormerStem(self.widths[0], **self.types)
        same = {name: getattr(self, name) for name in BLOCK_FIELDS}
        each = [{**same, "width": width, "downsample": i > 0} for i, width in enumerate(self.widths)]
        each[-1]["attention_blocks"] = self.attention_blocks
        self.encoder = self.stages(EfficientFormerStage, each)
        self.norm = LayerNorm(self.norm_epsilon, **self.types)
        self.set_up_head()
        if self.num_classes and self.dist_classifier:
            self.dist_head = self.classifier("head_dist")

    @property
    def stride(self) -> int:
        """Pixels from one place of the last map to the next."""
        return 4 * 2 ** (self.depth - 1)

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits, the mean of both heads' where there are two, float32; without classes the embedding."""
        if not (self.num_classes and self.dist_classifier):
            return super().__call__(images, train)
        labelled, taught = self.token_logits(images, train)
        return (labelled + taught) / 2

    def token_logits(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"]]:
        """Returns the logits of the head that learns from labels, and of the one that learns from a teacher.

        Raises:
          ValueError: the model has not both heads.
        """
        if not (self.num_classes and self.dist_classifier):
            raise ValueError("token_logits needs both heads: num_classes above 0 and dist_classifier=True")
        x = dropout(self.dropping(train, self.dropout), self.embed(images, train), self.dropout)
        return self.head_dense(x), self.dist_head(x)

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the places of the last map, row by row, after the final norm."""
        x = self.norm(self.maps(images, train)[-1])
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def pooled(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        """Returns one vector an image."""
        return x.astype(jnp.float32).mean(1)
