"""Which kernel computes attention: our own products, or cuDNN's fused one on NVIDIA GPUs."""

import functools
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.types import DTypeLike

KERNELS = ("auto", "plain", "cudnn")
"""The values of `attention_kernel`: the fastest that works here, the products of `vit_jax.layers.product`, or cuDNN's.

A kernel changes rounding, speed and memory (cuDNN's keeps no weights, `[heads, tokens, tokens]`, for the gradient),
never the mathematics; softmax is float32 in both.
"""


def chosen_kernel(
    requested: str,
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    drops: bool = False,
) -> str:
    """Returns `plain` or `cudnn`. On a GPU a request that falls back to `plain` is told in a warning, once a reason.

    Args:
      drops: attention weights are dropped at random, for which the plain products are needed.

    Raises:
      ValueError: the kernel is unknown, or `cudnn` is asked for and does not work here.
    """
    if requested not in KERNELS:
        raise ValueError(f"attention_kernel must be one of {', '.join(KERNELS)}, not {requested!r}")
    if requested == "plain" or (requested == "auto" and jax.default_backend() != "gpu"):
        return "plain"
    reason = why_not_cudnn(query.dtype, query.shape, key.shape, drops)
    if reason is None:
        return "cudnn"
    if requested == "cudnn":
        raise ValueError(f"attention_kernel 'cudnn': {reason}")
    told(f"attention runs as plain products, cuDNN's fused kernel cannot be used: {reason}")
    return "plain"


def why_not_cudnn(
    dtype: DTypeLike, query_shape: tuple[int, ...], key_shape: tuple[int, ...], drops: bool
) -> str | None:
    """Returns why cuDNN's kernel cannot compute this attention and its gradient, or None where it can."""
    if jax.default_backend() != "gpu" or "cuda" not in jax.devices()[0].client.platform_version:
        return f"it needs an NVIDIA GPU, and this is a {jax.devices()[0].device_kind}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16, not {jnp.dtype(dtype)} (model.dtype)"
    if drops:
        return "it does not drop attention weights (model.attention_dropout)"
    return _trial_failure(jnp.dtype(dtype), tuple(query_shape[1:]), tuple(key_shape[1:]))


@functools.cache
def _trial_failure(dtype: jnp.dtype, query_shape: tuple[int, ...], key_shape: tuple[int, ...]) -> str | None:
    """Compiles the kernel and its gradient for one example: what cuDNN takes depends on its version and on the GPU."""
    query, key = (jax.ShapeDtypeStruct((1, *shape), dtype) for shape in (query_shape, key_shape))

    def summed(query, key, value):
        return fused_attention(query, key, value).astype(jnp.float32).sum()

    try:
        jax.jit(jax.grad(summed, argnums=(0, 1, 2))).lower(query, key, key).compile()
    except (ValueError, NotImplementedError, RuntimeError) as error:  # XlaRuntimeError is a RuntimeError
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def fused_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch queries heads head_dim"]:
    """Returns softmax(q kᵀ / √head_dim) v by cuDNN's fused kernel (FlashAttention-2, Dao 2024)."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def require_plain(kernel: str, reason: str) -> None:
    """Says, as `chosen_kernel` does, that attention which the fused kernel knows nothing of runs as plain products.

    Args:
      reason: why the fused kernel cannot do it.

    Raises:
      ValueError: the kernel that is asked for is `cudnn`.
    """
    if kernel == "cudnn":
        raise ValueError(f"attention_kernel 'cudnn': {reason}")
    if kernel == "auto" and jax.default_backend() == "gpu":
        told(f"attention runs as plain products, cuDNN's fused kernel cannot be used: {reason}")


@functools.cache
def told(message: str) -> None:
    """Warns once."""
    warnings.warn(message, stacklevel=2)
