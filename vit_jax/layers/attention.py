"""Multi-head self-attention."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention_kind import Full, Given, no_dropout
from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import dropout
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.product import affine, mix
from vit_jax.layers.rope import rotated
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
      kind: who attends to whom, and how; parameters are the same in all kinds.
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
    kind: Full = Full()
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        queries: Float[Array, "batch probes width"] | None = None,
        **told,
    ) -> Float[Array, "batch probes width"]:
        """Attends from `queries` (by default the tokens themselves) to the tokens `x`.

        Args:
          told: `sizes`, `bias`, `layout` and `offsets`, as `vit_jax.layers.attention_kind.Given` has them.
        """
        return self.with_keys(x, key, queries, **told)[0]

    @nn.compact
    def with_keys(
        self,
        x: Float[Array, "batch tokens width"],
        key: jax.Array | None = None,
        queries: Float[Array, "batch probes width"] | None = None,
        **told,
    ) -> tuple[Float[Array, "batch probes width"], Float[Array, "batch tokens heads head_dim"]]:
        """Returns what a call does, and the keys that the queries met."""
        given = Given(drop=dropouts(key, self.dropout), kernel=self.kernel, **told)
        query, keys, value = self.projected(x, queries)
        if self.kind.rotary and not self.kind.turns_features:
            query, keys = rotated(query, given.layout), rotated(keys, given.layout)
        self.show(query, keys, given)
        added = self.get_variable(ADDED, "weights")
        if added is None:
            mixed = self.kind.mixed(query, keys, value, given)
        else:
            weights = self.kind.weights(query, keys, given)
            mixed = mix(weights + added.reshape(weights.shape), value)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Dense(x.shape[-1], in_axes=2, out_dtype=jnp.float32, name="out", **types)(mixed), keys

    def projected(
        self, x: Float[Array, "batch tokens width"], queries: Float[Array, "batch probes width"] | None
    ) -> tuple[Array, Array, Array]:
        """Returns queries, keys and values, `[batch, tokens, heads, head_dim]`, as their product takes them."""
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
        return (self.directions(query), unit(keys), value) if self.cosine else (query, keys, value)

    def show(
        self,
        query: Float[Array, "batch probes heads head_dim"],
        keys: Float[Array, "batch tokens heads head_dim"],
        given: Given,
    ) -> None:
        """Sows the weights of all tokens for each query, where the caller asks for them."""
        if not self.is_mutable_collection(ATTENTION) or self.is_initializing():
            return
        if given.sizes is not None:
            raise ValueError("attention between merged tokens is not shown: leave merge_tokens at 0 for that")
        weights = self.kind.weights(query, keys, given)
        weights = weights.reshape(query.shape[0], self.heads, query.shape[1], keys.shape[1])
        self.sow(ATTENTION, "weights", weights, init_fn=lambda: None, reduce_fn=lambda _, latest: latest)

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


def dropouts(key: jax.Array | None, rate: float) -> Callable[[int], Callable[[Array], Array] | None]:
    """Returns the dropout of the weights of each part of an attention, by its number, or None where nothing drops."""
    if key is None or rate == 0.0:
        return no_dropout
    return lambda part: lambda weights: dropout(jax.random.fold_in(key, part) if part else key, weights, rate)


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
