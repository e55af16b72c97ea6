"""The pre-norm encoder block."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention import Attention
from vit_jax.layers.drop import drop_path, dropout
from vit_jax.layers.layer_scale import LayerScale
from vit_jax.layers.mlp import Mlp, SwiGlu
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.types import DTypeLike


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) (Dosovitskiy et al. 2021, eqs. 2 and 3).

    `mlp` is `gelu` (see `Mlp`) or `swiglu` (see `SwiGlu`); for `attention_kernel` and `fused_qkv` see `Attention`.
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
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        drop_path_rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "batch tokens width"]:
        """Applies the block; without a key nothing is dropped (evaluation)."""
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
            name="attention",
            **types,
        )
        if self.mlp == "swiglu":
            mlp = SwiGlu(self.mlp_dim, self.dropout, name="mlp", **types)
        else:
            mlp = Mlp(self.mlp_dim, self.gelu, self.dropout, name="mlp", **types)
        branch = attention(LayerNorm(self.norm_epsilon, name="norm_0", **types)(x), keys[0])
        branch = self.scaled("layer_scale_0", dropout(keys[1], branch, self.dropout))
        x = x + drop_path(keys[2], branch, drop_path_rate)
        branch = self.scaled("layer_scale_1", mlp(LayerNorm(self.norm_epsilon, name="norm_1", **types)(x), keys[3]))
        return x + drop_path(keys[4], branch, drop_path_rate)

    def scaled(self, name: str, branch: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Returns the branch after LayerScale, where the block has one."""
        return branch if self.layer_scale is None else LayerScale(self.layer_scale, self.param_dtype, name=name)(branch)
