"""Positions by convolution: against the sum written out, shifts, and the tokens that pass by."""

import jax
import numpy as np

from vit_jax.layers.conditional_position import ConditionalPosition


def test_adds_the_depthwise_convolution_and_lets_the_prefix_pass(normal, random_params):
    tokens, layer = normal(2, 2 + 12, 5), ConditionalPosition(2)
    params = random_params(layer, tokens, 3, 4)
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    assert kernel.shape == (3, 3, 1, 5)
    padded = np.pad(tokens[:, 2:].reshape(2, 3, 4, 5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = sum(padded[:, i : i + 3, j : j + 4] * kernel[i, j, 0] for i in range(3) for j in range(3)) + bias
    found = jax.jit(layer.apply, static_argnums=(2, 3))({"params": params}, tokens, 3, 4)
    np.testing.assert_array_equal(found[:, :2], tokens[:, :2])
    np.testing.assert_allclose(found[:, 2:], tokens[:, 2:] + around.reshape(2, 12, 5), rtol=1e-5, atol=1e-5)


def test_what_is_shifted_inside_is_shifted_after(normal, random_params):
    """The border apart: only there does it tell where a token stands."""
    layer, grid = ConditionalPosition(0), np.zeros((1, 8, 8, 5), np.float32)
    grid[:, 2:5, 2:5] = normal(1, 3, 3, 5)
    params = random_params(layer, grid.reshape(1, 64, 5), 8, 8)

    def applied(grid):
        return np.asarray(layer.apply({"params": params}, grid.reshape(1, 64, 5), 8, 8)).reshape(1, 8, 8, 5)

    shifted, plain = applied(np.roll(grid, (1, 1), (1, 2))), applied(grid)
    np.testing.assert_allclose(shifted[:, 2:7, 2:7], plain[:, 1:6, 1:6], rtol=1e-6, atol=1e-6)
    same = applied(np.ones_like(grid))
    assert np.abs(same[0, 0, 0] - same[0, 4, 4]).max() > 0.1
    np.testing.assert_allclose(same[0, 3, 4], same[0, 4, 4], rtol=1e-6)
