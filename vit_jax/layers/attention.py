"""Multi-head self-attention."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention_kernel import chosen_kernel, fused_attention, told
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import dropout
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.product import affine, attend, attention_weights, mix
from vit_jax.layers.types import DTypeLike

ATTENTION = "attention"
"""The collection into which attention weights are sown where the caller makes it mutable; else they are not formed."""

ADDED = "attention_added"
"""A collection of arrays that are added to the attention weights, named and shaped as those are sown. Where it holds a
layer's array, that layer mixes the values by the explicit sum: the gradient by zeros is that by the weights."""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), queries scaled by head_dim^-1/2, softmax in float32.

    With `qk_norm`, queries and keys are layer-normalised over each head before their product (Dehghani et al. 2023).
    With `cosine`, the scores are the cosines of queries and keys, times a learned scale of each head, at most 100,
    which starts at 10 (Liu et al. 2022, Swin V2, eq. 2).
    The result is float32, as the residual stream is.
    Parameters: `query`, `key`, `value` with kernels `[width, heads, head_dim]`, `out` with `[heads, head_dim, width]`;
    with `cosine` also `logit_scale`, `[heads]`, the logarithm of the scale.

    Attributes:
      key_bias: keys have a bias where queries and values have one (`qkv_bias`). But with `cosine` it changes nothing:
        it adds the same to all scores of a query, which softmax takes away; BEiT and Swin V2 have none.
      kernel: see `vit_jax.layers.attention_kernel.KERNELS`.
      fused_qkv: queries, keys and values of self-attention come from one product over the three kernels side by side:
        fewer, larger products; on a CPU three are faster.
      head_dim: of queries and keys, where it is not width / heads.
      value_dim: of the values of each head, where it is not that of queries and keys.

    Raises:
      ValueError: the width is not a multiple of the number of heads, or the kernel does not work here, or attention
        weights are asked for together with sizes.
    """

    heads: int
    qk_norm: bool = False
    qkv_bias: bool = True
    dropout: float = 0.0
    norm_epsilon: float = 1e-6
    kernel: str = "auto"
    fused_qkv: bool = False
    key_bias: bool = True
    cosine: bool = False
    head_dim: int | None = None
    value_dim: int | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        queries: Float[Array, "batch probes width"] | None = None,
        sizes: Float[Array, "batch tokens"] | None = None,
        bias: Float[Array, "groups heads probes tokens"] | None = None,
    ) -> Float[Array, "batch probes width"]:
        """Attends from `queries` (by default the tokens themselves) to the tokens `x`.

        Args:
          sizes: how many equal tokens each of `x` stands for (Bolya et al. 2023, eq. 1, "proportional attention").
          bias: added to the scores, as `vit_jax.layers.product.attend` takes it: relative positions, masks.
        """
        return self.with_keys(x, key, queries, sizes, bias)[0]

    @nn.compact
    def with_keys(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        queries: Float[Array, "batch probes width"] | None = None,
        sizes: Float[Array, "batch tokens"] | None = None,
        bias: Float[Array, "groups heads probes tokens"] | None = None,
    ) -> tuple[Float[Array, "batch probes width"], Float[Array, "batch tokens heads head_dim"]]:
        """Returns what a call does, and the keys that the queries met."""
        width = x.shape[-1]
        if self.head_dim is None and width % self.heads:
            raise ValueError(f"width {width} is not a multiple of {self.heads} heads")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        head_dim = self.head_dim or width // self.heads
        dims = {"query": head_dim, "key": head_dim, "value": self.value_dim or head_dim}
        biased = {"query": self.qkv_bias, "key": self.qkv_bias and self.key_bias, "value": self.qkv_bias}
        dense = [Dense((self.heads, dims[name]), use_bias=biased[name], name=name, **types) for name in biased]
        if self.fused_qkv and queries is None:
            query, keys, value = joint_products(dense, x, jnp.dtype(self.dtype or x.dtype))
        else:
            sources = (x if queries is None else queries, x, x)
            query, keys, value = (project(source) for project, source in zip(dense, sources, strict=True))
        if self.qk_norm:
            query = LayerNorm(self.norm_epsilon, name="query_norm", **types)(query)
            keys = LayerNorm(self.norm_epsilon, name="key_norm", **types)(keys)
        if self.cosine:
            query, keys = self.directions(query), unit(keys)
        if self.is_mutable_collection(ATTENTION) and not self.is_initializing():
            if sizes is not None:
                raise ValueError("attention between merged tokens is not shown: leave merge_tokens at 0 for that")
            weights = attention_weights(query, keys, bias).reshape(x.shape[0], self.heads, query.shape[1], x.shape[1])
            self.sow(ATTENTION, "weights", weights, init_fn=lambda: None, reduce_fn=lambda _, latest: latest)
        added = self.get_variable(ADDED, "weights")
        drop = None if key is None or self.dropout == 0.0 else (lambda p: dropout(key, p, self.dropout))
        if added is not None:
            weights = attention_weights(query, keys, bias)
            mixed = mix(weights + added.reshape(weights.shape), value)
        elif sizes is not None or bias is not None:
            if sizes is not None:
                require_plain(self.kernel, "it does not add the sizes of merged tokens (model.merge_tokens)")
                bias = jnp.log(sizes)[:, None, None] + (0.0 if bias is None else bias)
            else:
                require_plain(self.kernel, "it does not add relative positions")
            mixed = attend(query, keys, value, drop, bias)
        elif chosen_kernel(self.kernel, query, keys, drops=drop is not None) == "cudnn":
            mixed = fused_attention(query, keys, value)
        else:
            mixed = attend(query, keys, value, drop)
        return Dense(width, in_axes=2, out_dtype=jnp.float32, name="out", **types)(mixed), keys

    def directions(
        self, query: Float[Array, "batch probes heads head_dim"]
    ) -> Float[Array, "batch probes heads head_dim"]:
        """Returns queries whose scaled products with keys of length 1 are scaled cosines."""
        start = nn.initializers.constant(math.log(10.0))
        scale = self.param("logit_scale", start, (self.heads,), self.param_dtype).astype(jnp.float32)
        scale = jnp.exp(jnp.minimum(scale, math.log(100.0))) * query.shape[-1] ** 0.5
        return (unit(query.astype(jnp.float32)) * scale[:, None]).astype(query.dtype)


def unit(x: Float[Array, "... head_dim"]) -> Float[Array, "... head_dim"]:
    """Returns vectors scaled to length 1; those shorter than 1e-12, whose direction means nothing, by that number."""
    wide = x.astype(jnp.float32)
    squared = jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24)  # under the root, whose gradient at 0 is none
    return (wide * jax.lax.rsqrt(squared)).astype(x.dtype)


def require_plain(kernel: str, reason: str) -> None:
    """Says, as `chosen_kernel` does, that attention with something added to the scores runs as plain products.

    Args:
      reason: why the fused kernel cannot do it.

    Raises:
      ValueError: the kernel that is asked for is `cudnn`.
    """
    if kernel == "cudnn":
        raise ValueError(f"attention_kernel 'cudnn': {reason}")
    if kernel == "auto" and jax.default_backend() == "gpu":
        told(f"attention runs as plain products, cuDNN's fused kernel cannot be used: {reason}")


def joint_products(
    dense: Sequence[Dense], x: Float[Array, "batch tokens width"], dtype: DTypeLike
) -> list[Float[Array, "batch tokens heads head_dim"]]:
    """Returns what each of the projections makes of `x`, by one product.

    The heads stay the first of the kernels' output axes, so that they can be split over devices.
    """
    kernels, biases = zip(*(project(x, product=False) for project in dense), strict=True)
    bias = None
    if biases[0] is not None:
        bias = jnp.stack([jnp.zeros_like(biases[0]) if b is None else b for b in biases], axis=1)
    together = affine(x, jnp.stack(kernels, axis=2), bias, dtype, dtype)
    return [together[..., i, :] for i in range(len(dense))]
