"""Multi-head self-attention."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention_kernel import chosen_kernel, fused_attention
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import dropout
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.product import affine, attend, attention_weights
from vit_jax.layers.types import DTypeLike

ATTENTION = "attention"
"""The collection into which attention weights are sown where the caller makes it mutable; else they are not formed."""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), queries scaled by head_dim^-1/2, softmax in float32.

    With `qk_norm`, queries and keys are layer-normalised over each head before their product (Dehghani et al. 2023).
    The result is float32, as the residual stream is.
    Parameters: `query`, `key`, `value` with kernels `[width, heads, head_dim]`, `out` with `[heads, head_dim, width]`.

    Attributes:
      kernel: see `vit_jax.layers.attention_kernel.KERNELS`.
      fused_qkv: queries, keys and values of self-attention come from one product over the three kernels side by side:
        fewer, larger products; on a CPU three are faster.

    Raises:
      ValueError: the width is not a multiple of the number of heads, or the kernel does not work here.
    """

    heads: int
    qk_norm: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
    kernel: str = "auto"
    fused_qkv: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        queries: Float[Array, "batch probes width"] | None = None,
    ) -> Float[Array, "batch probes width"]:
        """Attends from `queries` (by default the tokens themselves) to the tokens `x`."""
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"width {width} is not a multiple of {self.heads} heads")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        split = (self.heads, width // self.heads)
        dense = [Dense(split, use_bias=self.qkv_bias, name=name, **types) for name in ("query", "key", "value")]
        if self.fused_qkv and queries is None:
            query, keys, value = joint_products(dense, x, jnp.dtype(self.dtype or x.dtype))
        else:
            sources = (x if queries is None else queries, x, x)
            query, keys, value = (project(source) for project, source in zip(dense, sources, strict=True))
        if self.qk_norm:
            query = LayerNorm(self.norm_epsilon, name="query_norm", **types)(query)
            keys = LayerNorm(self.norm_epsilon, name="key_norm", **types)(keys)
        if self.is_mutable_collection(ATTENTION) and not self.is_initializing():
            weights = attention_weights(query, keys).reshape(x.shape[0], self.heads, query.shape[1], x.shape[1])
            self.sow(ATTENTION, "weights", weights, init_fn=lambda: None, reduce_fn=lambda _, latest: latest)
        drop = None if key is None or self.dropout == 0.0 else (lambda p: dropout(key, p, self.dropout))
        if chosen_kernel(self.kernel, query, keys, drops=drop is not None) == "cudnn":
            mixed = fused_attention(query, keys, value)
        else:
            mixed = attend(query, keys, value, drop)
        return Dense(width, in_axes=2, out_dtype=jnp.float32, name="out", **types)(mixed)


def joint_products(
    dense: Sequence[Dense], x: Float[Array, "batch tokens width"], dtype: DTypeLike
) -> list[Float[Array, "batch tokens heads head_dim"]]:
    """Returns what each of the projections makes of `x`, by one product.

    The heads stay the first of the kernels' output axes, so that they can be split over devices.
    """
    kernels, biases = zip(*(project(x, product=False) for project in dense), strict=True)
    bias = None if biases[0] is None else jnp.stack(biases, axis=1)
    together = affine(x, jnp.stack(kernels, axis=2), bias, dtype, dtype)
    return [together[..., i, :] for i in range(len(dense))]
