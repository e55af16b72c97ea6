"""MLP-Mixer (Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision")."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import Dense
from vit_jax.layers.mixer_block import MixerBlock
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PatchEmbed, grid_shape
from vit_jax.layers.types import DTypeLike
from vit_jax.models.encoder import REMAT_POLICIES, BlockStack


class MixerEncoder(BlockStack):
    """`depth` Mixer blocks."""

    depth: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu: str = "tanh"
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    remat: str = "none"
    scan_layers: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    block_class = MixerBlock


class Mixer(nn.Module):
    """Patch embedding, Mixer blocks, a norm, the mean of the tokens, and a linear classifier.

    The tokens are the patches, row by row; nothing tells their positions but the token mixing itself, whose parameters
    are made for the number of patches at initialisation. So the image's size is fixed from then on.

    Attributes:
      patch_size: height and width of a patch, in pixels.
      tokens_mlp_dim: hidden width of the MLP that mixes the tokens of each channel.
      channels_mlp_dim: hidden width of the MLP that mixes the channels of each token.
      gelu: `tanh` as in Google's weights, `exact` as in timm's.
      head_bias: initial bias of the head; -10 suits the sigmoid loss with many classes.

    Raises:
      ValueError: a field's value is unknown, or the image's size is not that of the parameters.
    """

    num_classes: int = 1000
    patch_size: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    tokens_mlp_dim: int = 384
    channels_mlp_dim: int = 3072
    gelu: str = "tanh"
    head_bias: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    remat: str = "none"
    scan_layers: bool = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    prefix_tokens = 0
    """Number of tokens before the patches."""

    def setup(self):
        if self.remat not in ("none", *REMAT_POLICIES):
            raise ValueError(f"remat must be one of none, {', '.join(REMAT_POLICIES)}, not {self.remat!r}")
        for field in ("width", "depth", "tokens_mlp_dim", "channels_mlp_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if min(self.patch_size) < 1:
            raise ValueError(f"patch_size {self.patch_size} must be positive")
        for field in ("dropout", "drop_path"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 0 and less than 1, not {getattr(self, field)}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.patch_embed = PatchEmbed(self.patch_size, self.width, **types)
        self.encoder = MixerEncoder(
            **{
                name: getattr(self, name)
                for name in MixerEncoder.__dataclass_fields__
                if name not in ("parent", "name")
            }
        )
        self.norm = LayerNorm(self.norm_epsilon, **types)
        if self.num_classes:
            self.head_dense = Dense(
                self.num_classes,
                name="head",
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias),
                out_dtype="float32",
                **types,
            )

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits, float32; without classes (`num_classes=0`) the embedding."""
        x = self.embed(images, train)
        return self.head_dense(x) if self.num_classes else x

    def embed(self, images: Float[Array, "batch height width 3"], train: bool = False) -> Float[Array, "batch width"]:
        """Returns the mean of the tokens, float32: the vector before the head."""
        return self.features(images, train).astype(jnp.float32).mean(axis=1)

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns all tokens after the final norm."""
        return self.norm(self.encoder(self.patches(images)[0], train)[0])

    def intermediates(
        self, images: Float[Array, "batch height width 3"], layers: Sequence[int], train: bool = False
    ) -> list[Float[Array, "batch tokens width"]]:
        """Returns the tokens after each block of `layers` (counted from 0; -1 is the last), without the final norm.

        Raises:
          ValueError: there is no such layer.
        """
        unknown = [i for i in layers if not -self.depth <= i < self.depth]
        if unknown:
            raise ValueError(f"no layer {unknown[0]} in a model of depth {self.depth}")
        return self.encoder(self.patches(images)[0], train, tuple(i % self.depth for i in layers))[1]

    def patches(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch patches width"], tuple[int, int]]:
        """Returns the embedded patches, row by row, and the rows and columns of their grid.

        Raises:
          ValueError: the image has another number of patches than those that the parameters mix.
        """
        rows, columns = grid_shape(images.shape[1:3], self.patch_size)
        if not self.is_initializing():
            mixed = self.variables["params"]["encoder"]["block_0"]["token_mixing"]["dense_0"]["kernel"].shape[0]
            if rows * columns != mixed:
                raise ValueError(
                    f"a {images.shape[1]}x{images.shape[2]} image has {rows * columns} patches, but this Mixer's "
                    f"parameters are made for {mixed}; its image size cannot change"
                )
        return self.patch_embed(images), (rows, columns)
