"""Patch dropout: how many stay, which, and where they stand."""

import jax
import numpy as np
import pytest

from vit_jax.layers.grid_tokens import Layout
from vit_jax.layers.patch_dropout import kept_patches, patch_dropout

TOKENS = np.arange(4 * 14, dtype=np.float32).reshape(4, 14, 1)
"""Each a number of its own: of image i, token n it is 14 i + n."""


@pytest.mark.parametrize(("rate", "kept"), [(0.25, 9), (0.5, 6), (0.95, 1), (0.99, 1)])
def test_the_prefix_and_a_fixed_number_of_patches_stay_in_order(rate, kept):
    tokens, layout = patch_dropout(jax.random.key(0), TOKENS, Layout((3, 4), 2), rate)
    assert kept == kept_patches(12, rate)
    assert tokens.shape == (4, 2 + kept, 1)
    np.testing.assert_array_equal(tokens[:, :2], TOKENS[:, :2])
    numbers = np.asarray(tokens[:, 2:, 0]) - np.arange(4)[:, None] * 14 - 2
    assert ((numbers >= 0) & (numbers < 12)).all()
    assert (np.diff(numbers, axis=1) > 0).all()
    np.testing.assert_array_equal(layout.places, np.stack([numbers // 4, numbers % 4], axis=-1))
    assert (layout.grid, layout.prefix) == ((3, 4), 2)


def test_every_patch_is_as_likely_and_every_image_has_its_own():
    draw = jax.jit(lambda key: patch_dropout(key, TOKENS, Layout((3, 4), 2), 0.5)[0])
    kept = np.stack([np.asarray(draw(key)) for key in jax.random.split(jax.random.key(1), 400)])[:, :, 2:, 0]
    assert (kept[:, 0] != kept[:, 1] - 14).any()
    shares = np.bincount(kept.astype(int).ravel(), minlength=56).reshape(4, 14)[:, 2:] / 400
    np.testing.assert_allclose(shares, 0.5, atol=0.12)
