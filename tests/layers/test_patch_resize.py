"""Kernels and positions for patches of another size: what the resize must preserve."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.flexible import FlexibleEmbed
from vit_jax.layers.patch_embed import PatchEmbed, in_patches
from vit_jax.layers.patch_resize import resize_patches, resize_positions


def enlarged(patch, size):
    return jax.image.resize(patch, (*size, patch.shape[-1]), "linear", antialias=False)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (8, 8)), ((4, 4), (7, 5)), ((3, 2), (3, 9)), ((8, 8), (16, 12))])
def test_products_with_enlarged_patches_are_those_with_the_patches(normal, old, new):
    """The defining property: ⟨B x, ŵ⟩ = ⟨x, w⟩ for every patch x."""
    patch, kernel = normal(*old, 3), normal(*old, 3, 5)
    expected = np.einsum("hwc,hwcd->d", patch, kernel)
    found = np.einsum("hwc,hwcd->d", enlarged(patch, new), resize_patches(kernel, new))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (4, 4)), ((6, 8), (4, 5))])
def test_of_smaller_patches_it_is_the_pseudo_inverse(normal, old, new):
    """By way of the whole matrix of a patch, where the layer has one for each axis."""
    kernel, count = normal(*old, 2, 3), old[0] * old[1]
    basis = np.eye(count, dtype=np.float32).reshape(count, *old, 1)
    matrix = np.stack([np.asarray(enlarged(one, new)).reshape(-1) for one in basis], axis=1)
    expected = np.linalg.pinv(matrix.T.astype(np.float64)) @ kernel.reshape(count, -1)
    np.testing.assert_allclose(resize_patches(kernel, new).reshape(-1, 6), expected, rtol=1e-4, atol=1e-5)


def test_arrays_of_either_kind_and_equal_sizes(normal):
    kernel = normal(4, 4, 3, 5)
    assert resize_patches(kernel, (4, 4)) is kernel
    traced = jax.jit(lambda kernel: resize_patches(kernel, (6, 3)))(kernel)
    np.testing.assert_allclose(traced, resize_patches(kernel, (6, 3)), rtol=1e-5, atol=1e-5)
    assert resize_patches(jnp.asarray(kernel, jnp.bfloat16), (2, 2)).dtype == jnp.bfloat16


def test_tokens_of_a_smooth_image_are_the_same_for_all_patch_sizes(normal):
    """A linear ramp, sampled twice as finely: patches twice as large see what the others did."""
    layer = FlexibleEmbed((4, 4), 5, patch_base=(4, 4))
    twice = FlexibleEmbed((8, 8), 5, patch_base=(4, 4))
    places = (np.arange(32) + 0.5) / 32
    fine = (places[:, None, None] * [1.0, -2.0, 0.5] + places[None, :, None] * [0.3, 1.0, -1.0]).astype(np.float32)
    coarse = fine.reshape(16, 2, 16, 2, 3).mean((1, 3))
    # At the border of a patch, interpolation has no neighbour to go by: the middle of the kernel sees the ramp alone.
    kernel = np.zeros((4, 4, 3, 5), np.float32)
    kernel[1:3, 1:3] = normal(2, 2, 3, 5)
    params = {"kernel": kernel, "bias": normal(5)}

    def tokens_of(layer, image):
        positions = np.zeros((1, math.prod(layer.position_grid(image.shape[:2])), 5), np.float32)
        return layer.apply({"params": params}, image[None], positions, method="placed")[0]

    tokens = tokens_of(layer, coarse)
    np.testing.assert_allclose(tokens_of(twice, enlarged_patches(coarse)), tokens, rtol=1e-5, atol=1e-5)
    seen = tokens_of(twice, fine)
    np.testing.assert_allclose(seen, tokens, atol=0.15 * np.abs(tokens).max())


def enlarged_patches(image):
    """Returns an image of which every 4x4 patch is twice as large."""
    patches = in_patches(image[None], (4, 4))[0].reshape(4, 4, 4, 4, 3)
    return np.concatenate([np.concatenate([enlarged(p, (8, 8)) for p in row], axis=1) for row in patches])


def test_at_the_underlying_size_it_is_the_plain_embedding(normal, random_params):
    images, plain = normal(2, 8, 12, 3), PatchEmbed((4, 4), 5)
    params, positions = random_params(plain, images), normal(1, 6, 5)
    layer = FlexibleEmbed((4, 4), 5, patch_base=(4, 4))
    tokens, grid, places = layer.apply({"params": params}, images, positions, method="placed")
    assert (grid, places) == ((2, 3), None)
    np.testing.assert_array_equal(tokens, plain.apply({"params": params}, images) + positions)


@pytest.mark.parametrize("new", [(8, 6), (2, 3), (5, 2)])
def test_positions_are_interpolated(normal, new):
    positions = normal(1, 12, 5)
    expected = jax.image.resize(positions.reshape(4, 3, 5), (*new, 5), "linear").reshape(1, -1, 5)
    np.testing.assert_allclose(resize_positions(positions, (4, 3), new), expected, rtol=1e-5, atol=1e-5)
    assert resize_positions(positions, (4, 3), (4, 3)) is positions
