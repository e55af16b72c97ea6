"""Overlapping patches: against the sum written out, the plain patches in the limit, and what does not fit."""

import jax
import numpy as np
import pytest

from vit_jax.layers.overlapping import OverlappingEmbed
from vit_jax.layers.patch_embed import PatchEmbed


def applied(layer, params, images):
    with jax.default_matmul_precision("highest"):
        return jax.jit(layer.apply)({"params": params}, images)


@pytest.mark.parametrize(("patch", "size"), [((4, 4), (8, 12)), ((3, 2), (9, 4))])
def test_with_the_patch_as_stride_it_is_the_plain_embedding(normal, random_params, patch, size):
    images, plain = normal(2, *size, 3), PatchEmbed(patch, 5)
    params = random_params(plain, images)
    layer = OverlappingEmbed(patch, 5, patch_stride=patch)
    assert layer.grid(size) == plain.grid(size)
    np.testing.assert_allclose(applied(layer, params, images), applied(plain, params, images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "stride", "size"), [((4, 4), (2, 2), (8, 6)), ((7, 7), (4, 4), (8, 12)), ((3, 2), (1, 2), (3, 4))]
)
def test_is_the_product_with_patches_of_the_padded_image(normal, random_params, patch, stride, size):
    images, layer = normal(2, *size, 3), OverlappingEmbed(patch, 5, patch_stride=stride)
    params = random_params(layer, images)
    over = [a - b for a, b in zip(patch, stride, strict=True)]
    padded = np.pad(images, ((0, 0), *((n // 2, n - n // 2) for n in over), (0, 0)))
    rows, columns = size[0] // stride[0], size[1] // stride[1]
    starts = [(i * stride[0], j * stride[1]) for i in range(rows) for j in range(columns)]
    patches = np.stack([padded[:, i : i + patch[0], j : j + patch[1]] for i, j in starts], axis=1)
    expected = np.einsum("bnhwc,hwcd->bnd", patches, params["kernel"]) + params["bias"]
    assert layer.grid(size) == (rows, columns)
    assert layer.stride == stride
    np.testing.assert_allclose(applied(layer, params, images), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_in_bfloat16_and_tokens_float32(normal, random_params):
    images, layer = normal(2, 8, 8, 3), OverlappingEmbed((4, 4), 5, patch_stride=(2, 2), dtype="bfloat16")
    params = random_params(layer, images)
    assert applied(layer, params, images).dtype == np.float32
    gradients = jax.jit(jax.grad(lambda p: (layer.apply({"params": p}, images) ** 2).mean()))(params)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("stride", "size", "message"),
    [
        ((3, 2), (8, 8), "image height 8 is not a multiple of patch stride height 3"),
        ((5, 4), (20, 20), r"patch_stride \(5, 4\) must be from 1 to patch_size \(4, 4\)"),
        ((0, 1), (8, 8), "must be from 1 to"),
    ],
)
def test_what_does_not_fit_is_an_error(stride, size, message):
    layer = OverlappingEmbed((4, 4), 5, patch_stride=stride)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), np.ones((1, *size, 3), np.float32))
