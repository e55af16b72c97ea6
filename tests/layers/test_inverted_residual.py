import jax
import numpy as np
import pytest

from vit_jax.layers.inverted_residual import InvertedResidual, rounded


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, 8), (8, 8), (11.9, 16), (12, 16), (19, 24), (18, 24), (64, 64), (67, 64), (68, 72)]
)
def test_channels_are_rounded_to_eights_and_lose_at_most_a_tenth(channels, expected):
    assert rounded(channels) == expected
    assert rounded(channels) >= 0.9 * channels


def started(block, x):
    """Returns the output and the variables of an initialisation."""
    quickly = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda key: block.init_with_output(key, x, False), compiler_options=quickly)(jax.random.key(0))


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_the_shortcut_is_there_where_the_shape_stays(channels, stride):
    block = InvertedResidual(channels, stride, expand_ratio=2.0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    out, variables = started(block, x)
    assert out.shape == (2, -(-5 // stride), -(-3 // stride), channels)
    assert variables["params"]["depthwise"]["conv"]["kernel"].shape == (3, 3, 1, 8)
    if (channels, stride) == (4, 1):
        np.testing.assert_array_equal(out, x)
    else:
        assert np.abs(out).max() > 0


def test_only_a_branch_beside_a_shortcut_is_dropped():
    x, key = np.random.default_rng(0).normal(size=(8, 5, 3, 4)).astype(np.float32), jax.random.key(1)
    for channels in (4, 6):
        block = InvertedResidual(channels)
        variables = jax.tree.map(lambda leaf: leaf + 0.1, started(block, x)[1])
        both = jax.jit(lambda v, block=block: (block.apply(v, x, False), block.apply(v, x, False, key, 0.5)))
        kept, dropped = both(variables)
        assert bool(np.any(np.asarray(kept != dropped))) == (channels == 4)
