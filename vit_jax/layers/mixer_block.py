"""The block of an MLP-Mixer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.drop import drop_path
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.types import DTypeLike


class MixerBlock(nn.Module):
    """x + token_mixing(norm(x)ᵀ)ᵀ, then x + channel_mixing(norm(x)) (Tolstikhin et al. 2021, eq. 1).

    The token mixing's kernels are made for one number of tokens, `[tokens, tokens_mlp_dim]` and back.
    """

    tokens_mlp_dim: int
    channels_mlp_dim: int
    gelu: str = "tanh"
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
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
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        token_mixing = Mlp(self.tokens_mlp_dim, self.gelu, self.dropout, name="token_mixing", **types)
        channel_mixing = Mlp(self.channels_mlp_dim, self.gelu, self.dropout, name="channel_mixing", **types)
        channels_first = LayerNorm(self.norm_epsilon, name="norm_0", **types)(x).swapaxes(1, 2)
        x = x + drop_path(keys[1], token_mixing(channels_first, keys[0]).swapaxes(1, 2), drop_path_rate)
        branch = channel_mixing(LayerNorm(self.norm_epsilon, name="norm_1", **types)(x), keys[2])
        return x + drop_path(keys[3], branch, drop_path_rate)
