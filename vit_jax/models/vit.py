"""The Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words")."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention_kernel import KERNELS
from vit_jax.layers.attention_kind import Full
from vit_jax.layers.attention_kinds import KINDS, OPTIONS, attention_kind, check_attention
from vit_jax.layers.conditional_position import conditioned
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import dropout
from vit_jax.layers.grid_tokens import GridTokens
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_dropout import patch_dropout
from vit_jax.layers.pooling import MapPool, SequencePool, mean_pool
from vit_jax.layers.position import POSITIONS
from vit_jax.layers.token_merging import MergedTokens
from vit_jax.layers.types import DTypeLike
from vit_jax.models.encoder import REMAT_POLICIES, Encoder
from vit_jax.models.patch_tokens import PatchTokens
from vit_jax.models.patches import EMBEDDINGS

CHOICES = {
    "patch_embed": tuple(EMBEDDINGS),
    "pool": ("cls", "gap", "map", "cls_gap", "sequence", "multi_cls"),
    "multi_cls": ("concat", "mean"),
    "mlp": ("gelu", "swiglu"),
    "head": ("linear", "mlp"),
    "position": POSITIONS,
    "attention": tuple(KINDS),
    "attention_kernel": KERNELS,
    "remat": ("none", *REMAT_POLICIES),
}
"""The values that the fields of a choice may take."""


class VisionTransformer(PatchTokens):
    """Patch embedding, encoder blocks, pooling and a classifier.

    Tokens come in the order cls (with `pool="cls"`, or `cls_token`), registers, patches. Registers (Darcet et al.
    2024) carry no position. The image's size is free as long as the patch embedding takes it; learned positions are
    made for the size at initialisation.

    Attributes:
      patch_size: height and width of a patch, in pixels.
      patch_embed: `linear`; `overlapping` (a patch every `patch_stride` pixels, by default half a patch); `conv_stem`
        and `cct` (small convolutions, for images of any size); `hybrid` (patches of the map of the ResNet `resnet`,
        `bit50`, after `resnet_stage`, 3); `positional` (linear, with positions by convolution after the first block:
        with `position="none"` they are the only ones); `adaptive` (`patch_tokens` patches of `patch_scales` sizes,
        small ones where there is detail); `flexible` (each training step draws a size of `patch_sizes`, evaluation has
        `patch_size`; parameters are for patches of `patch_base`, by default the largest drawn). See
        `vit_jax.models.patches`.
      patch_dropout: in training, the share of the patches that each image loses at random (Liu et al. 2022).
      mlp: `gelu`, or `swiglu` as in DINOv2's giant model; `mlp_dim` is its hidden width.
      gelu: `tanh` as in Google's weights, `exact` as in timm's and Hugging Face's.
      pool: `cls` token, mean of the patches (`gap`), attention pooling of the patches (`map`, Zhai et al. 2022), cls
        token and mean side by side (`cls_gap`, DINOv2's linear classifier), or the patches' mean with learned weights
        (`sequence`, Hassani et al. 2021), or the `class_tokens` cls tokens side by side or their mean, as `multi_cls`
        says (`multi_cls`, concat or mean).
      pool_norm: the final norm comes after the pooling, not before it (timm's `fc_norm`); `features` are then bare.
      pre_norm: a norm before the first block, and no bias in the patch embedding (CLIP, Radford et al. 2021).
      cls_token: a cls token although the pooling does not use it.
      cls_position: the cls token has a row of the learned positions.
      pre_logits: width of a Dense + tanh layer before the head, or None.
      head: `linear`, or `mlp`: the head of the original pre-training (section 3.1), whose hidden layer is a pre-logits
        layer as wide as the encoder.
      head_bias: initial bias of the head; -10 suits the sigmoid loss with many classes.
      position: `learned`, `sincos2d` and `sinusoidal1d` are added to the tokens (see `PositionEmbed`); `rope2d` turns
        queries and keys in every block, for images of any size (see `vit_jax.layers.rope`); `relative` adds a learned
        number for each offset to the scores of every block, for the grid at initialisation; or `none`.
      attention: `full`; `relative` (full with a table of offsets beside any `position`); `local` windows
        (`attention_window`, 7; with `attention_shift` shifted in every second block); `axial`; `sparse` (blocks of
        `attention_window`, 7, and a patch of every `attention_stride`); `topk` (`attention_topk` scores, 32); `linear`;
        `performer` (`attention_features`, 256). See `vit_jax.layers.attention_kinds`. The parameters of all are those
        of full attention. Where patches attend in groups, cls and registers attend to all and all to them.
      attention_kernel: `auto` (cuDNN's fused kernel where it works, else the plain products), `plain` or `cudnn`.
      fused_qkv: queries, keys and values by one product; names and checkpoints are the same.
      merge_tokens: an option of inference: each block merges so many of the patches' tokens, at most half of those that
        are left, into others that are like them (Bolya et al. 2023). The tokens of `features` and `intermediates` are
        then fewer; `merged_features` tells which patches each stands for. The blocks run as a loop whatever
        `scan_layers` says, with the same results, and attention as plain products.

    Raises:
      ValueError: a field's value is unknown, or the sizes do not fit together.
    """

    num_classes: int = 1000
    patch_size: tuple[int, int] = (16, 16)
    patch_embed: str = "linear"
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    mlp: str = "gelu"
    gelu: str = "tanh"
    patch_stride: tuple[int, int] | None = None
    patch_scales: int | None = None
    patch_tokens: int | None = None
    patch_sizes: tuple[int, ...] | None = None
    patch_base: tuple[int, int] | None = None
    resnet: str | None = None
    resnet_stage: int | None = None
    patch_dropout: float = 0.0
    pool: str = "cls"
    class_tokens: int = 1
    multi_cls: str = "concat"
    pool_norm: bool = False
    pre_norm: bool = False
    cls_token: bool = False
    cls_position: bool = True
    registers: int = 0
    position: str = "learned"
    qk_norm: bool = False
    qkv_bias: bool = True
    layer_scale: float | None = None
    pre_logits: int | None = None
    head: str = "linear"
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    attention: str = "full"
    attention_window: int | None = None
    attention_shift: bool = False
    attention_stride: int | None = None
    attention_topk: int | None = None
    attention_features: int | None = None
    attention_kernel: str = "auto"
    fused_qkv: bool = False
    merge_tokens: int = 0
    remat: str = "none"
    scan_layers: bool = False
    dtype: DTypeLike = "float32"
    param_dtype: DTypeLike = "float32"

    encoder_class = Encoder

    def setup(self):
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} must be one of {', '.join(choices)}, not {getattr(self, field)!r}")
        for field in ("width", "depth", "heads", "mlp_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if min(self.patch_size) < 1 or self.registers < 0:
            raise ValueError(f"patch_size {self.patch_size} must be positive, registers {self.registers} not negative")
        if self.merge_tokens < 0:
            raise ValueError(f"merge_tokens must not be negative, not {self.merge_tokens}")
        for field in ("patch_dropout", "dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 0 and less than 1, not {getattr(self, field)}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        check_attention(self)
        self.set_up_patches()
        if self.registers:
            shape = (1, self.registers, self.width)
            self.register_tokens = self.param("registers", nn.initializers.normal(0.02), shape, self.param_dtype)
        fields = self.encoder_class.__dataclass_fields__.keys() - {"parent", "name"}
        self.encoder = self.encoder_class(**{name: getattr(self, name) for name in fields})
        if self.pre_norm:
            self.first_norm = LayerNorm(self.norm_epsilon, name="pre_norm", **types)
        self.norm = LayerNorm(self.norm_epsilon, **types)
        if self.pool == "map":
            self.map_pool = MapPool(self.heads, self.mlp_dim, self.gelu, self.norm_epsilon, **types)
        if self.pool == "sequence":
            self.sequence_pool = SequencePool(**types)
        if self.hidden_width:
            self.pre_logits_dense = Dense(self.hidden_width, name="pre_logits", out_dtype="float32", **types)
        if self.num_classes:
            self.head_dense = Dense(
                self.num_classes,
                name="head",
                kernel_init=nn.initializers.zeros,
                bias_init=nn.initializers.constant(self.head_bias),
                out_dtype="float32",
                **types,
            )

    @property
    def attention_kind(self) -> Full:
        """Who attends to whom, positions in the attention included."""
        return attention_kind(self.attention, self.position, {option: getattr(self, option) for option in OPTIONS})

    @property
    def hidden_width(self) -> int | None:
        """Width of the pre-logits layer, or None where there is none."""
        return self.width if self.pre_logits is None and self.head == "mlp" else self.pre_logits

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patches."""
        return len(self.class_token_names) + self.registers

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Returns the logits, float32; without classes (`num_classes=0`) the embedding."""
        x = self.embed(images, train)
        return self.head_dense(x) if self.num_classes else x

    def embed(self, images: Float[Array, "batch height width 3"], train: bool = False) -> Float[Array, "batch width"]:
        """Returns the pooled vector before the head, pre-logits layer included."""
        merged = self.merged_features(images, train)
        sizes = None if merged.sizes is None else merged.sizes[:, self.prefix_tokens :]
        x = self.pooled(merged.tokens, sizes)
        x = self.norm(x) if self.pool_norm else x
        return jnp.tanh(self.pre_logits_dense(x)) if self.hidden_width else x

    def features(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns all tokens after the last block and, unless `pool_norm`, the final norm; before pooling."""
        return self.merged_features(images, train).tokens

    def merged_features(self, images: Float[Array, "batch height width 3"], train: bool = False) -> MergedTokens:
        """Returns what `features` does, and what each token stands for where tokens are merged (`merge_tokens`)."""
        x = self.encoded(images, train)[0]
        x = x if isinstance(x, MergedTokens) else MergedTokens(x)
        if self.patch_embed == "adaptive" and not (train and self.patch_dropout):
            x = x._replace(assignment=self.assignment(images, x.assignment))
        return x if self.pool_norm else x._replace(tokens=self.norm(x.tokens))

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
        found = self.encoded(images, train, tuple(i % self.depth for i in layers))[1]
        return [x.tokens if isinstance(x, MergedTokens) else x for x in found]

    def encoded(
        self, images: Float[Array, "batch height width 3"], train: bool, layers: Sequence[int] = ()
    ) -> tuple[Float[Array, "batch tokens width"] | MergedTokens, list]:
        """Returns the tokens after the last block, and those after each of the blocks named in `layers`."""
        x = self.placed_tokens(images, train)
        after_first = None
        if self.patch_embed == "positional":
            after_first = functools.partial(conditioned, self.conditional_position, x.layout.grid)
        if not self.attention_kind.placed:
            return self.encoder(x.tokens, train, layers, after_first)
        x, found = self.encoder(x, train, layers, after_first)
        return x.tokens, [after.tokens for after in found]

    def tokens(self, images: Float[Array, "batch height width 3"], train: bool) -> Float[Array, "batch tokens width"]:
        """Returns the tokens that enter the first block."""
        return self.placed_tokens(images, train).tokens

    def placed_tokens(self, images: Float[Array, "batch height width 3"], train: bool) -> GridTokens:
        """Returns the tokens that enter the first block, and where they stand."""
        x, layout = self.positioned_tokens(images, train)
        if self.registers:
            registers, first = self.broadcast(self.register_tokens, x), len(self.class_token_names)
            x = jnp.concatenate([x[:, :first], registers, x[:, first:]], axis=1)
        if train and self.patch_dropout:
            x, layout = patch_dropout(self.make_rng("dropout"), x, layout, self.patch_dropout)
        key = self.make_rng("dropout") if train and self.dropout else None
        x = dropout(key, x, self.dropout)
        x = self.first_norm(x).astype(x.dtype) if self.pre_norm else x
        return GridTokens(x, layout)

    def pooled(
        self, tokens: Float[Array, "batch tokens width"], sizes: Float[Array, "batch patches"] | None = None
    ) -> Float[Array, "batch width"]:
        """Returns one vector an image.

        Args:
          sizes: of how many patches each token after the prefix is the mean; None is 1.
        """
        if self.pool == "cls":
            return tokens[:, 0]
        if self.pool == "multi_cls":
            several = tokens[:, : self.class_tokens]
            return several.mean(axis=1) if self.multi_cls == "mean" else several.reshape(several.shape[0], -1)
        patches = tokens[:, self.prefix_tokens :]
        if self.pool == "map":
            return self.map_pool(patches, sizes)
        if self.pool == "sequence":
            return self.sequence_pool(patches, sizes)
        mean = mean_pool(patches, sizes)
        return mean if self.pool == "gap" else jnp.concatenate([tokens[:, 0].astype(jnp.float32), mean], axis=-1)
