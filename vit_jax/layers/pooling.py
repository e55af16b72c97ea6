"""From the encoder's tokens to one vector an image."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention import Attention
from vit_jax.layers.dense import Dense
from vit_jax.layers.mlp import Mlp
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.types import DTypeLike


def mean_pool(
    tokens: Float[Array, "batch tokens width"], sizes: Float[Array, "batch tokens"] | None = None
) -> Float[Array, "batch width"]:
    """Returns the mean of the tokens, float32; those that stand for several count as so many."""
    tokens = tokens.astype(jnp.float32)
    if sizes is None:
        return tokens.mean(axis=1)
    return (tokens * sizes[..., None]).sum(axis=1) / sizes.sum(axis=1, keepdims=True)


class SequencePool(nn.Module):
    """Sequence pooling: the mean of the tokens, weighted by how much each matters (Hassani et al. 2021, section 3.2).

    The weights are the softmax, over the tokens, of one number that a linear map makes of each. Tokens that stand for
    several count as so many. Returns float32.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], sizes: Float[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch width"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        scores = Dense(1, name="score", out_dtype="float32", **types)(tokens)
        scores = scores if sizes is None else scores + jnp.log(sizes)[..., None]
        return (nn.softmax(scores, axis=1) * tokens.astype(jnp.float32)).sum(axis=1)


class MapPool(nn.Module):
    """Attention pooling: a learned probe attends to all tokens, then an MLP (Zhai et al. 2022, section 3.1).

    Tokens that stand for several count as so many (see `vit_jax.layers.token_merging`).
    """

    heads: int
    mlp_dim: int
    gelu: str = "tanh"
    norm_epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "batch tokens width"], sizes: Float[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch width"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        batch, _, width = tokens.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width), self.param_dtype)
        probe = jnp.broadcast_to(probe.astype(tokens.dtype), (batch, 1, width))
        x = Attention(self.heads, kernel="plain", name="attention", **types)(tokens, queries=probe, sizes=sizes)
        y = LayerNorm(self.norm_epsilon, name="norm", **types)(x)
        return (x + Mlp(self.mlp_dim, self.gelu, name="mlp", **types)(y))[:, 0]
