"""The pre-norm encoder block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention import Attention
from vit_jax.layers.attention_kind import Full
from vit_jax.layers.drop import drop_path, dropout
from vit_jax.layers.grid_tokens import GridTokens, Layout
from vit_jax.layers.layer_scale import LayerScale
from vit_jax.layers.mlp import Mlp, SiluMlp, SwiGlu
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.relative_bias import OffsetTable
from vit_jax.layers.token_merging import MergedTokens, merge
from vit_jax.layers.types import DTypeLike


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021, eqs. 2 and 3).

    `mlp` is `gelu` (see `Mlp`), `swiglu` (see `SwiGlu`) or `silu` (see `SiluMlp`); for `attention_kernel` and
    `fused_qkv` see `Attention`. Given `MergedTokens` in place of an array it attends by their sizes, and merges
    `merge_tokens` more of them between attention and MLP, the first `prefix_tokens` excepted (see
    `vit_jax.layers.token_merging`). Given `GridTokens` it attends by their places, as `attention_kind` says (see
    `vit_jax.layers.attention_kinds`); a table of relative positions is its `relative_bias`. For `key_bias`, `head_dim`
    and `value_dim`, which a subclass may set, and for the `bias` of a call see `Attention`.
    """

    heads: int
    mlp_dim: int
    mlp: str = "gelu"
    gelu: str = "tanh"
    qk_norm: bool = False
    qkv_bias: bool = True
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm_epsilon: float = 1e-6
    attention_kernel: str = "auto"
    fused_qkv: bool = False
    merge_tokens: int = 0
    prefix_tokens: int = 0
    attention_kind: Full = Full()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    key_bias = True
    head_dim = value_dim = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"] | MergedTokens | GridTokens,
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
        bias: Float[Array, "1 heads tokens tokens"] | None = None,
    ) -> Float[Array, "batch tokens width"] | MergedTokens | GridTokens:
        """Applies the block; without a key nothing is dropped (evaluation)."""
        if isinstance(x, GridTokens):
            return x.replace(tokens=self.applied(MergedTokens(x.tokens), key, drop_path_rate, x.bias, x.layout).tokens)
        if isinstance(x, MergedTokens):
            return self.applied(x, key, drop_path_rate, bias)
        return self.applied(MergedTokens(x), key, drop_path_rate, bias).tokens

    def applied(
        self,
        whole: MergedTokens,
        key: jax.Array | None,
        drop_path_rate: float | Float[Array, ""],
        bias: Float[Array, "1 heads tokens tokens"] | None,
        layout: Layout | None = None,
    ) -> MergedTokens:
        """Returns what becomes of tokens, merged or not, that stand as the layout says."""
        x = whole.tokens
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        keys = (None,) * 5 if key is None else jax.random.split(key, 5)
        attention = Attention(
            self.heads,
            self.qk_norm,
            self.qkv_bias,
            self.attention_dropout,
            self.norm_epsilon,
            self.attention_kernel,
            self.fused_qkv,
            self.key_bias,
            head_dim=self.head_dim,
            value_dim=self.value_dim,
            kind=self.attention_kind,
            name="attention",
            **types,
        )
        if self.mlp == "swiglu":
            mlp = SwiGlu(self.mlp_dim, self.dropout, name="mlp", **types)
        else:
            kind = SiluMlp if self.mlp == "silu" else Mlp
            mlp = kind(self.mlp_dim, self.gelu, self.dropout, name="mlp", **types)
        normed = LayerNorm(self.norm_epsilon, name="norm_0", **types)(x)
        told = {"sizes": whole.sizes, "bias": bias, "layout": layout}
        if self.attention_kind.relative:
            told["offsets"] = OffsetTable(self.heads, self.param_dtype, name="relative_bias")(layout)
        branch, attended = attention.with_keys(normed, keys[0], **told)
        branch = self.scaled("layer_scale_0", dropout(keys[1], branch, self.dropout))
        x = x + drop_path(keys[2], branch, drop_path_rate)
        if whole.sizes is not None:
            whole = merge(whole._replace(tokens=x), attended, self.merge_tokens, self.prefix_tokens)
            x = whole.tokens
        branch = self.scaled("layer_scale_1", mlp(LayerNorm(self.norm_epsilon, name="norm_1", **types)(x), keys[3]))
        x = x + drop_path(keys[4], branch, drop_path_rate)
        return whole._replace(tokens=x)

    def scaled(self, name: str, branch: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Returns the branch after LayerScale, where the block has one."""
        return branch if self.layer_scale is None else LayerScale(self.layer_scale, self.param_dtype, name=name)(branch)
