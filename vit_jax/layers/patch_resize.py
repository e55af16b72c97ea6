"""Patch kernels and position embeddings for patches of another size (Beyer et al. 2023, "FlexiViT")."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.layers.bilinear import between_centres

EXACT = jax.lax.Precision.HIGHEST
"""Of products with constants: accelerators would else round the weights."""


def resize_patches(
    kernel: Float[Array, "height width channels out"], size: tuple[int, int]
) -> Float[Array, "new_height new_width channels out"]:
    """Returns a patch kernel for patches of another size (pseudo-inverse resize, Beyer et al. 2023, eq. 2).

    The product of the new kernel with an enlarged patch is that of the old one with the patch itself; of all kernels
    it comes nearest to that where patches shrink. Patches are resized by linear interpolation. A NumPy kernel gives a
    NumPy one.
    """
    if tuple(kernel.shape[:2]) == tuple(size):
        return kernel
    rows, columns = (_pseudo_inverse(old, new) for old, new in zip(kernel.shape[:2], size, strict=True))
    if isinstance(kernel, np.ndarray):
        return np.einsum("ai,bj,ijcd->abcd", rows, columns, kernel.astype(np.float64)).astype(kernel.dtype)
    matrices = (jnp.asarray(matrix, jnp.float32) for matrix in (rows, columns))
    resized = jnp.einsum("ai,bj,ijcd->abcd", *matrices, kernel.astype(jnp.float32), precision=EXACT)
    return resized.astype(kernel.dtype)


def _pseudo_inverse(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the matrix for one axis; that of a patch is the product of both, as its pseudo-inverse is."""
    return np.linalg.pinv(between_centres(old, new).T.astype(np.float64))


def resize_positions(
    positions: Float[Array, "1 patches width"], grid: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "1 new_patches width"]:
    """Returns position embeddings of another grid, linear between the centres and antialiased, as FlexiViT has them."""
    if tuple(grid) == tuple(new):
        return positions
    matrices = [jnp.asarray(between_centres(a, b, antialias=True)) for a, b in zip(grid, new, strict=True)]
    placed = positions.reshape(*grid, positions.shape[-1]).astype(jnp.float32)
    resized = jnp.einsum("ai,bj,ijd->abd", *matrices, placed, precision=EXACT)
    return resized.reshape(1, new[0] * new[1], -1).astype(positions.dtype)
