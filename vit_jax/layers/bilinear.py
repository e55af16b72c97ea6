"""Maps resized inside a network."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(
    x: Float[Array, "batch rows columns channels"], sides: tuple[int, int]
) -> Float[Array, "batch new_rows new_columns channels"]:
    """Returns a map of other sides: linear between the centres of places, the borders on each other, no antialiasing.

    So does PyTorch's `interpolate(mode="bilinear", align_corners=False)`. Computed in float32, as the type of `x`.
    """
    for axis, (old, new) in enumerate(zip(x.shape[1:3], sides, strict=True), 1):
        if old != new:
            matrix, wide = jnp.asarray(between_centres(old, new)), x.astype(jnp.float32)
            product = jnp.tensordot(matrix, wide, (1, axis), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(product, 0, axis).astype(x.dtype)
    return x


def between_centres(old: int, new: int, antialias: bool = False) -> Float[np.ndarray, "new old"]:
    """Returns the matrix of linear interpolation along one axis; beyond the outer centres the nearest is taken.

    Args:
      antialias: where there are fewer places than before, each is the mean of all those around it, by their distance.
    """
    places = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0) if antialias else 1.0
    weights = np.maximum(1 - np.abs(places[:, None] - np.arange(old)) / reach, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
