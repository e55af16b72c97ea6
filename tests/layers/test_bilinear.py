import jax
import numpy as np
import pytest

from vit_jax.layers.bilinear import between_centres, resize_bilinear


def test_centres_of_places_are_interpolated():
    """Of 3 places 4 are made: their centres are at 3/8, 9/8, … of the old ones, less a half."""
    expected = [[1, 0, 0], [0.375, 0.625, 0], [0, 0.625, 0.375], [0, 0, 1]]
    np.testing.assert_allclose(between_centres(3, 4), expected, atol=1e-6)


@pytest.mark.parametrize("sides", [(4, 6), (3, 6), (5, 2), (1, 1)])
def test_it_is_jaxs_without_antialiasing(sides):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    expected = jax.image.resize(x, (2, *sides, 4), "linear", antialias=False)
    np.testing.assert_allclose(resize_bilinear(x, sides), expected, rtol=1e-5, atol=1e-6)


def test_the_same_sides_are_the_map_itself():
    x = np.ones((1, 3, 5, 2), np.float32)
    assert resize_bilinear(x, (3, 5)) is x
