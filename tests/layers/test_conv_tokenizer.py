"""The convolutional tokenizer: against the equation written out, its grid, and what it does not take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.conv_tokenizer import ConvTokenizer


def convolved(x, kernel):
    """Returns the 3x3 convolution, padded by one on every side."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[1:3]
    windows = [padded[:, i : i + rows, j : j + columns] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(windows, axis=0)


def pooled(x):
    """Returns the largest of every second 3x3 window, padded by one with what is never the largest."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = x.shape[1:3]
    windows = [padded[:, i : i + rows : 2, j : j + columns : 2] for i in range(3) for j in range(3)]
    return np.max(windows, axis=0)


@pytest.mark.parametrize(
    ("side", "image_size", "grid"),
    [(2, (6, 8), (3, 4)), (2, (5, 7), (3, 4)), (4, (8, 12), (2, 3)), (4, (9, 6), (3, 2))],
)
def test_equals_convolution_relu_and_max_pooling(normal, random_params, side, image_size, grid):
    images, layer = normal(2, *image_size, 3), ConvTokenizer((side, side), 5)
    params = random_params(layer, images)
    assert len(params) == {2: 1, 4: 2}[side]
    x = np.asarray(images)
    for i in range(len(params)):
        x = pooled(np.maximum(convolved(x, np.asarray(params[f"conv_{i}"]["kernel"])), 0))
    assert x.shape == (2, *grid, 5)
    assert layer.grid(image_size) == grid
    tokens = jax.jit(layer.apply)({"params": params}, images)
    np.testing.assert_allclose(tokens, x.reshape(2, -1, 5), rtol=1e-4, atol=1e-4)


def test_compute_type_keeps_parameters_and_tokens_in_float32():
    layer = ConvTokenizer((4, 4), 5, dtype="bfloat16")
    tree = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("patch_size", [(1, 1), (3, 3), (2, 4), (0, 0)])
def test_patches_that_no_layers_make_are_an_error(patch_size):
    with pytest.raises(ValueError, match=r"patch_embed 'cct' halves the map: patch_size must be 2, 4, 8, …, not"):
        jax.eval_shape(ConvTokenizer(patch_size, 5).init, jax.random.key(0), np.ones((1, 8, 8, 3)))
