"""Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks", eqs. 1 and 2)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def grad_cam(
    features: Float[Array, "batch rows columns width"], gradients: Float[Array, "batch rows columns width"]
) -> Float[Array, "batch rows columns"]:
    """Returns ReLU of the channels' sum, each weighted by the mean of its gradients over all places.

    Tokens of a grid are a map as any other.

    Args:
      gradients: of the class's logit by the features.
    """
    weights = jnp.asarray(gradients).mean((1, 2), keepdims=True)
    return jnp.maximum((weights * jnp.asarray(features)).sum(-1), 0)
