"""Products of activations with weights, and of attention, with gradients written for the hardware.

Every product takes operands of the compute type and accumulates in float32. The gradients are the ordinary ones; they
are written out because of what XLA does with the automatic ones on a CPU. Of bfloat16 operands only a product whose
left one contracts its last axis, with a float32 result, reaches the fast AMX kernels; the automatic weight gradient xᵀg
contracts the first axes of both, is widened to float32 and runs three to five times slower, and so do dV = PᵀdO and
dK = dSᵀQ of attention. With float32 operands it is the other way round: those that contract first axes are faster
there. Accelerators get the plain forms.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vit_jax.layers.platform import by_platform
from vit_jax.layers.types import DTypeLike

PRODUCT = "product"
"""Name under which rematerialisation finds the results of products with weights, in the type that the layers pass on.

By their primitive it would find the sums, which are float32 and twice as large.
"""


def matmul(a: Array, b: Array, batch: int = 0, transpose: bool = False) -> Float[Array, "..."]:
    """Returns a·b, or a·bᵀ with `transpose`, over `batch` leading axes, in float32."""
    last = a.ndim - 1
    axes = tuple(range(batch))
    contracted = ((last,), (last if transpose else last - 1,))
    return jax.lax.dot_general(a, b, (contracted, (axes, axes)), preferred_element_type=jnp.float32)


def matmul_first(a: Array, b: Array, batch: int = 0) -> Float[Array, "..."]:
    """Returns aᵀ·b over `batch` leading axes, in float32."""
    axes = tuple(range(batch))
    return jax.lax.dot_general(a, b, (((batch,), (batch,)), (axes, axes)), preferred_element_type=jnp.float32)


def over_rows(x: Float[Array, "rows inputs"], gradient: Float[Array, "rows outputs"]) -> Float[Array, "inputs outputs"]:
    """Returns xᵀ·gradient in float32, in the form that the platform likes."""

    def last_axis(x, gradient):
        return matmul(features_first(x), gradient)

    return liked(x.dtype, last_axis, matmul_first)(x, gradient)


def liked(dtype: DTypeLike, last_axis: Callable, first_axes: Callable) -> Callable:
    """Returns the one of two equal functions whose products suit the platform that it is compiled for."""
    if jnp.dtype(dtype) != jnp.bfloat16:
        return first_axes
    return by_platform(cpu=last_axis, default=first_axes)


def features_first(x: Float[Array, "rows features"]) -> Float[Array, "features rows"]:
    """Returns xᵀ. By way of a third axis, as XLA folds a plain transpose back into the product that follows."""
    rows, features = x.shape
    if features % 2:
        return x.T
    return x.reshape(rows, 2, features // 2).transpose(1, 2, 0).reshape(features, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def affine(
    x: Float[Array, "... inputs"],
    kernel: Float[Array, "inputs *outputs"],
    bias: Float[Array, "*outputs"] | None,
    dtype: DTypeLike,
    out_dtype: DTypeLike,
    in_axes: int = 1,
) -> Float[Array, "... outputs"]:
    """Returns x·kernel + bias as `out_dtype`; the operands are cast to `dtype`, the sum is taken in float32.

    Args:
      in_axes: how many axes the inputs have: the last of `x`, the first of `kernel`.
    """
    product = matmul(_rows(x, in_axes).astype(dtype), _matrix(kernel, in_axes).astype(dtype))
    if bias is not None:
        product = product + bias.reshape(-1).astype(jnp.float32)
    return product.astype(out_dtype).reshape(*x.shape[: x.ndim - in_axes], *kernel.shape[in_axes:])


def _rows(x, in_axes):
    return x.reshape(-1, math.prod(x.shape[x.ndim - in_axes :]))


def _matrix(kernel, in_axes):
    return kernel.reshape(math.prod(kernel.shape[:in_axes]), -1)


def _affine_forward(x, kernel, bias, dtype, out_dtype, in_axes):
    product = checkpoint_name(affine(x, kernel, bias, dtype, out_dtype, in_axes), PRODUCT)
    # The kernel is kept as it came: it is in memory anyway, whereas a cast one would be kept for every layer.
    types = jnp.empty((0,), x.dtype), None if bias is None else jnp.empty((0,), bias.dtype)
    return product, (x.astype(dtype), kernel, types)


def _affine_backward(dtype, out_dtype, in_axes, saved, gradient):
    x, kernel, (x_type, bias_type) = saved
    wide = gradient.reshape(-1, math.prod(kernel.shape[in_axes:]))
    narrow = wide.astype(dtype)
    to_x = matmul(narrow, _matrix(kernel, in_axes).astype(dtype), transpose=True).astype(x_type.dtype)
    to_kernel = over_rows(_rows(x, in_axes), narrow).astype(kernel.dtype)
    to_bias = None
    if bias_type is not None:
        to_bias = wide.astype(jnp.float32).sum(0).astype(bias_type.dtype).reshape(kernel.shape[in_axes:])
    return to_x.reshape(x.shape), to_kernel.reshape(kernel.shape), to_bias


affine.defvjp(_affine_forward, _affine_backward)


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads value_dim"],
    drop: Callable[[Array], Array] | None = None,
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "batch queries heads value_dim"]:
    """Returns softmax(q kᵀ / √head_dim + bias) v for every head, softmax in float32 (Vaswani et al. 2017, eq. 1).

    Args:
      drop: dropout of the attention weights, in training.
      bias: float32, added to the scores: `[batch, keys]`, for all queries and heads, or `[groups, heads, queries,
        keys]`, where example i has that of i % groups (such as its window), and axes of length 1 stand for all.
    """
    if drop is None:
        return _attend(query, key, value, bias)
    return mix(drop(attention_weights(query, key, bias)), value)


def mix(
    weights: Float[Array, "batch*heads queries keys"], value: Float[Array, "batch keys heads value_dim"]
) -> Float[Array, "batch queries heads value_dim"]:
    """Returns the values' sums by weights, heads folded into the batch."""
    mixed = matmul(weights.astype(value.dtype), split_heads(value), batch=1)
    return join_heads(mixed, value.shape).astype(value.dtype)


def attention_weights(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "batch*heads queries keys"]:
    """Returns the attention weights, float32, heads folded into the batch."""
    return jax.nn.softmax(attention_scores(query, key, bias), axis=-1)


def attention_scores(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    bias: Float[Array, "..."] | None = None,
) -> Float[Array, "batch*heads queries keys"]:
    """Returns q kᵀ / √head_dim + bias, float32, heads folded into the batch.

    The queries are scaled rather than the scores, which are larger.
    """
    scaled = (query * query.shape[-1] ** -0.5).astype(query.dtype)
    scores = matmul(split_heads(scaled), split_heads(key), batch=1, transpose=True)
    if bias is None:
        return scores
    bias = _of_groups(bias)
    return (_in_groups(scores, bias.shape[0], key.shape[2]) + bias).reshape(scores.shape)


def _of_groups(bias):
    """Returns a bias with all four axes; one of keys alone is that of as many groups as there are examples."""
    return bias[:, None, None] if bias.ndim == 2 else bias


def _in_groups(scores, groups, heads):
    return scores.reshape(-1, groups, heads, *scores.shape[1:])


def split_heads(x: Float[Array, "batch tokens heads head_dim"]) -> Float[Array, "batch*heads tokens head_dim"]:
    """Returns the tokens of each head, heads folded into the batch."""
    batch, tokens, heads, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch * heads, tokens, head_dim)


def _split_heads_transposed(x):
    batch, tokens, heads, head_dim = x.shape
    return x.transpose(0, 2, 3, 1).reshape(batch * heads, head_dim, tokens)


def join_heads(
    x: Float[Array, "batch*heads tokens head_dim"], shape: tuple[int, ...]
) -> Float[Array, "batch tokens heads head_dim"]:
    """Returns the heads of each token side by side again; of `shape`, batch and heads are read."""
    batch, _, heads, _ = shape
    return x.reshape(batch, heads, *x.shape[1:]).transpose(0, 2, 1, 3)


def _join_heads_transposed(x, shape):
    batch, _, heads, _ = shape
    return x.reshape(batch, heads, *x.shape[1:]).transpose(0, 3, 1, 2)


@jax.custom_vjp
def _attend(query, key, value, bias):
    return _attend_forward(query, key, value, bias)[0]


def _attend_forward(query, key, value, bias):
    """Normalises the result, a row of head_dim numbers, in place of the weights, a row of as many as there are keys."""
    scores = attention_scores(query, key, bias)
    exponentials = jnp.exp(scores - scores.max(-1, keepdims=True))
    total = exponentials.sum(-1, keepdims=True)
    exponentials = exponentials.astype(value.dtype)
    mixed = (matmul(exponentials, split_heads(value), batch=1) / total).astype(value.dtype)
    mixed = join_heads(mixed, query.shape)  # as the layer that follows keeps it: one array in memory
    return mixed, (query, key, value, bias, exponentials, total, mixed)


def _attend_backward(saved, gradient):
    """With P = E/z and G = dO/z: dV = EᵀG and dS = E(GVᵀ - G·O), the row sum as in FlashAttention (Dao et al. 2022)."""
    query, key, value, bias, exponentials, total, mixed = saved
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    gradient = gradient.astype(dtype)
    over_total = split_heads(gradient).astype(jnp.float32) / total
    row_sums = (over_total * split_heads(mixed)).sum(-1, keepdims=True)
    over_total = over_total.astype(dtype)
    to_weights = matmul(over_total, split_heads(value), batch=1, transpose=True)
    to_scores = exponentials * (to_weights - row_sums)
    to_bias = None if bias is None else _summed_as(bias, to_scores, query.shape[2])
    to_scores = (to_scores * scale).astype(dtype)
    to_query = matmul(to_scores, split_heads(key), batch=1)
    to_key, to_value = liked(dtype, _over_queries_last_axis, _over_queries)(
        query, gradient, total, over_total, to_scores, exponentials
    )
    return join_heads(to_query.astype(dtype), query.shape), to_key, to_value, to_bias


def _summed_as(bias, to_scores, heads):
    """Returns the gradient by the bias: that by the scores, summed over all to which it was added."""
    whole = _of_groups(bias)
    total = _in_groups(to_scores, whole.shape[0], heads).sum(0)
    shared = tuple(axis for axis in (1, 2, 3) if whole.shape[axis] == 1)
    return total.sum(shared, keepdims=True).reshape(bias.shape).astype(bias.dtype)


def _over_queries(query, gradient, total, over_total, to_scores, exponentials):
    """Returns the gradients by key and value, dSᵀQ and EᵀG."""

    def over_queries(a, b):
        return join_heads(matmul_first(a, b, batch=1).astype(b.dtype), query.shape)

    return over_queries(to_scores, split_heads(query)), over_queries(exponentials, over_total)


def _over_queries_last_axis(query, gradient, total, over_total, to_scores, exponentials):
    """Returns the same from (QᵀdS)ᵀ and (GᵀE)ᵀ."""

    def over_queries(a, b):
        return _join_heads_transposed(matmul(a, b, batch=1).astype(b.dtype), query.shape)

    heads_first = _split_heads_transposed(gradient).astype(jnp.float32) / total.swapaxes(1, 2)
    to_key = over_queries(_split_heads_transposed(query), to_scores)
    return to_key, over_queries(heads_first.astype(gradient.dtype), exponentials)


_attend.defvjp(_attend_forward, _attend_backward)
