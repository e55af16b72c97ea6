"""Products of activations with weights, and of attention, with gradients written for the hardware.

Every product takes operands of the compute type and accumulates in float32. The gradients are the ordinary ones; they
are written out because of what XLA does with the automatic ones on a CPU. Of bfloat16 operands only a product whose left
one contracts its last axis, with a float32 result, reaches the fast AMX kernels; the automatic weight gradient xᵀg
contracts the first axes of both, is widened to float32 and runs three to five times slower, and so do dV = PᵀdO and
dK = dSᵀQ of attention. Float32 operands are the other way round: there the products that contract first axes are the
faster ones. Accelerators take any form as it comes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike


def matmul(a: Array, b: Array, batch: int = 0, transpose: bool = False) -> Float[Array, "..."]:
    """Returns a·b, or a·bᵀ with `transpose`, over `batch` leading axes, in float32."""
    last = a.ndim - 1
    axes = tuple(range(batch))
    contracted = ((last,), (last if transpose else last - 1,))
    return jax.lax.dot_general(a, b, (contracted, (axes, axes)), preferred_element_type=jnp.float32)


def contracts_last(dtype: DTypeLike) -> bool:
    """Returns whether products over rows shall be written so that the left operand contracts its last axis."""
    return jnp.dtype(dtype) == jnp.bfloat16 and jax.default_backend() == "cpu"


def over_rows(
    x: Float[Array, "rows inputs"], gradient: Float[Array, "rows outputs"]
) -> Float[Array, "inputs outputs"]:
    """Returns xᵀ·gradient in float32, in the form that the backend likes."""
    if contracts_last(x.dtype):
        return matmul(features_first(x), gradient)
    return jax.lax.dot_general(x, gradient, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def features_first(x: Float[Array, "rows features"]) -> Float[Array, "features rows"]:
    """Returns xᵀ. By way of a third axis, as XLA folds a plain transpose back into the product that follows."""
    rows, features = x.shape
    if features % 2:
        return x.T
    return x.reshape(rows, 2, features // 2).transpose(1, 2, 0).reshape(features, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def affine(
    x: Float[Array, "rows inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, "outputs"] | None,
    dtype: DTypeLike,
    out_dtype: DTypeLike,
) -> Float[Array, "rows outputs"]:
    """Returns x·kernel + bias as `out_dtype`; the operands are cast to `dtype`, the sum is taken in float32."""
    return _affine_forward(x, kernel, bias, dtype, out_dtype)[0]


def _affine_forward(x, kernel, bias, dtype, out_dtype):
    operand, weights = x.astype(dtype), kernel.astype(dtype)
    product = matmul(operand, weights)
    if bias is not None:
        product = product + bias.astype(jnp.float32)
    types = (
        jnp.empty((0,), x.dtype),
        jnp.empty((0,), kernel.dtype),
        None if bias is None else jnp.empty((0,), bias.dtype),
    )
    return product.astype(out_dtype), (operand, weights, types)


def _affine_backward(dtype, out_dtype, saved, gradient):
    operand, weights, (x_type, kernel_type, bias_type) = saved
    narrow = gradient.astype(dtype)
    to_x = matmul(narrow, weights, transpose=True).astype(x_type.dtype)
    to_kernel = over_rows(operand, narrow).astype(kernel_type.dtype)
    if bias_type is None:
        return to_x, to_kernel, None
    return to_x, to_kernel, gradient.astype(jnp.float32).sum(0).astype(bias_type.dtype)


affine.defvjp(_affine_forward, _affine_backward)


def attend(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """Returns softmax(q kᵀ / √head_dim) v for every head, softmax in float32 (Vaswani et al. 2017, eq. 1).

    Args:
      drop: dropout of the attention weights, in training.
    """
    if drop is None:
        return _attend(query, key, value)
    weights = drop(attention_weights(query, key)).astype(value.dtype)
    return _join_heads(matmul(weights, _split_heads(value), batch=1), query.shape).astype(value.dtype)


def attention_weights(
    query: Float[Array, "batch queries heads head_dim"], key: Float[Array, "batch keys heads head_dim"]
) -> Float[Array, "batch*heads queries keys"]:
    """Returns the attention weights, float32, heads folded into the batch."""
    return jax.nn.softmax(attention_scores(query, key), axis=-1)


def attention_scores(
    query: Float[Array, "batch queries heads head_dim"], key: Float[Array, "batch keys heads head_dim"]
) -> Float[Array, "batch*heads queries keys"]:
    """Returns q kᵀ / √head_dim, float32, heads folded into the batch.

    The queries are scaled rather than the scores, which are larger.
    """
    scaled = (query * query.shape[-1] ** -0.5).astype(query.dtype)
    return matmul(_split_heads(scaled), _split_heads(key), batch=1, transpose=True)


def _split_heads(x):
    batch, tokens, heads, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch * heads, tokens, head_dim)


def _split_heads_transposed(x):
    batch, tokens, heads, head_dim = x.shape
    return x.transpose(0, 2, 3, 1).reshape(batch * heads, head_dim, tokens)


def _join_heads(x, shape):
    batch, _, heads, head_dim = shape
    return x.reshape(batch, heads, -1, head_dim).transpose(0, 2, 1, 3)


def _join_heads_transposed(x, shape):
    batch, _, heads, head_dim = shape
    return x.reshape(batch, heads, head_dim, -1).transpose(0, 3, 1, 2)


@jax.custom_vjp
def _attend(query, key, value):
    return _attend_forward(query, key, value)[0]


def _attend_forward(query, key, value):
    """Normalises the result, a row of head_dim numbers, in place of the weights, a row of as many as there are keys."""
    scores = attention_scores(query, key)
    exponentials = jnp.exp(scores - scores.max(-1, keepdims=True))
    total = exponentials.sum(-1, keepdims=True)
    exponentials = exponentials.astype(value.dtype)
    mixed = (matmul(exponentials, _split_heads(value), batch=1) / total).astype(value.dtype)
    return _join_heads(mixed, query.shape), (query, key, value, exponentials, total, mixed)


def _attend_backward(saved, gradient):
    """With P = E/z and G = dO/z: dV = EᵀG, dS = E(GVᵀ - G·O), the row sum G·O as in FlashAttention (Dao et al. 2022)."""
    query, key, value, exponentials, total, mixed = saved
    dtype, scale = value.dtype, query.shape[-1] ** -0.5
    over_total = _split_heads(gradient).astype(jnp.float32) / total
    row_sums = (over_total * mixed).sum(-1, keepdims=True)
    over_total = over_total.astype(dtype)
    to_weights = matmul(over_total, _split_heads(value), batch=1, transpose=True)
    to_scores = (exponentials * (to_weights - row_sums) * scale).astype(dtype)
    to_query = matmul(to_scores, _split_heads(key), batch=1)
    if contracts_last(dtype):
        heads_first = _split_heads_transposed(gradient).astype(jnp.float32) / total.swapaxes(1, 2)
        to_key = matmul(_split_heads_transposed(query), to_scores, batch=1)
        to_value = matmul(heads_first.astype(dtype), exponentials, batch=1)
        join = _join_heads_transposed
    else:
        to_key = _over_queries(to_scores, _split_heads(query))
        to_value = _over_queries(exponentials, over_total)
        join = _join_heads
    return (
        _join_heads(to_query.astype(dtype), query.shape),
        join(to_key.astype(dtype), key.shape),
        join(to_value.astype(dtype), value.shape),
    )


def _over_queries(a, b):
    """Returns aᵀb for every head, in float32."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)


_attend.defvjp(_attend_forward, _attend_backward)
