"""The perceptrons of an encoder block."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import Dense
from vit_jax.layers.drop import dropout
from vit_jax.layers.types import DTypeLike


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Float[Array, "..."], approximate: bool) -> Float[Array, "..."]:
    """Returns x Φ(x), or its tanh approximation (Hendrycks & Gimpel 2016), computed in float32, as the type of `x`.

    The backward pass starts again from `x`, the only array that is kept.
    """
    return jax.nn.gelu(x.astype(jnp.float32), approximate=approximate).astype(x.dtype)


def _gelu_backward(approximate, x, gradient):
    return _pulled_back(functools.partial(jax.nn.gelu, approximate=approximate), x, gradient)


def _pulled_back(function, x, gradient):
    """Returns the gradient by `x` of a function that is computed in float32, as the one tuple that a backward gives."""
    _, pull_back = jax.vjp(function, x.astype(jnp.float32))
    return (pull_back(gradient.astype(jnp.float32))[0].astype(x.dtype),)


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x), _gelu_backward)


@jax.custom_vjp
def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x sigmoid(x) (Elfwing et al. 2018), as `gelu` is computed and differentiated."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


silu.defvjp(lambda x: (silu(x), x), functools.partial(_pulled_back, jax.nn.silu))


class Mlp(nn.Module):
    """Dense, GELU, Dense (Dosovitskiy et al. 2021, section 3.1); biases start near zero, N(0, 1e-6²).

    `gelu="tanh"` is the approximation that the Google weights were trained with, `"exact"` the error function that
    timm and Hugging Face use. Their logits differ by up to 1e-3, so it is part of the model.
    """

    mlp_dim: int
    gelu: str = "tanh"
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], key: jax.Array | None = None):
        if self.gelu not in ("tanh", "exact"):
            raise ValueError(f"gelu must be 'tanh' or 'exact', not {self.gelu!r}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype, "bias_init": nn.initializers.normal(1e-6)}
        keys = (None, None) if key is None else jax.random.split(key)
        hidden = Dense(self.mlp_dim, name="dense_0", **types)(x)
        hidden = self.activated(hidden)
        hidden = dropout(keys[0], hidden, self.dropout)
        out = Dense(x.shape[-1], name="dense_1", out_dtype=jnp.float32, **types)(hidden)
        return dropout(keys[1], out, self.dropout)

    def activated(self, hidden: Float[Array, "batch tokens mlp_dim"]) -> Float[Array, "batch tokens mlp_dim"]:
        """Returns what stands between the two products."""
        return gelu(hidden, self.gelu == "tanh")


class SiluMlp(Mlp):
    """Dense, SiLU, Dense, as in MobileViT; `gelu` means nothing."""

    def activated(self, hidden: Float[Array, "batch tokens mlp_dim"]) -> Float[Array, "batch tokens mlp_dim"]:
        """Returns what stands between the two products."""
        return silu(hidden)


class SwiGlu(nn.Module):
    """(silu(x W_gate) * x W_0) W_1 (Shazeer 2020, "GLU Variants Improve Transformer"), as in DINOv2's giant model.

    `mlp_dim` is the width of the product, which DINOv2 makes two thirds of the plain MLP's, in steps of 8.
    """

    mlp_dim: int
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], key: jax.Array | None = None):
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype, "bias_init": nn.initializers.normal(1e-6)}
        keys = (None, None) if key is None else jax.random.split(key)
        gate = Dense(self.mlp_dim, name="gate", **types)(x)
        hidden = Dense(self.mlp_dim, name="dense_0", **types)(x)
        hidden = (nn.silu(gate.astype(jnp.float32)) * hidden.astype(jnp.float32)).astype(hidden.dtype)
        hidden = dropout(keys[0], hidden, self.dropout)
        out = Dense(x.shape[-1], name="dense_1", out_dtype=jnp.float32, **types)(hidden)
        return dropout(keys[1], out, self.dropout)
