import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.patch_embed import PatchEmbed, grid_shape


@pytest.mark.parametrize(
    ("patch_size", "image_size", "grid"), [((2, 2), (4, 6), (2, 3)), ((2, 3), (6, 6), (3, 2)), ((5, 1), (5, 3), (1, 3))]
)
def test_equals_a_strided_convolution_with_the_same_kernel(normal, random_params, patch_size, image_size, grid):
    images = normal(2, *image_size, 3)
    params = random_params(PatchEmbed(patch_size, 5), images)
    convolution = nn.Conv(5, patch_size, patch_size, padding="VALID")
    expected = jax.jit(convolution.apply)({"params": params}, images)
    assert expected.shape == (2, *grid, 5)
    tokens = jax.jit(PatchEmbed(patch_size, 5).apply)({"params": params}, images)
    np.testing.assert_allclose(tokens, expected.reshape(2, -1, 5), rtol=1e-5, atol=1e-5)


def test_compute_type_keeps_parameters_and_tokens_in_float32():
    layer = PatchEmbed((2, 2), 5, dtype="bfloat16")
    tree = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        ((30, 32), "height 30 is not a multiple of patch height 16"),
        ((32, 9), "width 9 is not a multiple of patch width 8"),
    ],
)
def test_image_that_the_patch_does_not_divide_is_an_error(image_size, message):
    with pytest.raises(ValueError, match=message):
        grid_shape(image_size, (16, 8))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(PatchEmbed((16, 8), 5).init, jax.random.key(0), np.ones((1, *image_size, 3)))
