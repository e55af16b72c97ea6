import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures, random_attention
from vit_jax.errors import UserError
from vit_jax.explanation import attention_distances
from vit_jax.explanation.distance import mean_distance
from vit_jax.explanation.placement import NOWHERE, AttentionLayer


def test_is_the_mean_over_places_of_the_distance_weighted_by_attention():
    """Two registers, a 2x3 grid of patches of 4x5 pixels; each pair of patches taken by itself."""
    weights = random_attention(2, 1, 3, 8, 8)
    layer = AttentionLayer("block_0", weights, np.array([[NOWHERE, NOWHERE, *range(6)]]), (2, 3))
    expected = np.zeros((2, 3))
    for image, head, query in np.ndindex(2, 3, 6):
        row = weights[image, 0, head, 2 + query, 2:].astype(np.float64)
        for key, weight in enumerate(row / row.sum()):
            apart = 4 * (query // 3 - key // 3), 5 * (query % 3 - key % 3)
            expected[image, head] += weight * np.hypot(*apart) / 6
    np.testing.assert_allclose(mean_distance(layer, (8, 15)), expected, rtol=1e-5)


def test_a_head_that_looks_at_its_own_place_looks_no_way():
    layer = AttentionLayer("block_0", np.eye(4, dtype=np.float32)[None, None, None], np.arange(4)[None], (2, 2))
    assert mean_distance(layer, (8, 8)) == 0


def test_no_head_looks_beyond_its_window():
    model = loaded("swin")
    found = attention_distances(model, pictures(model))
    assert [each.shape for each in found.values()] == [(2, 1), (2, 1), (2, 2)]
    furthest = np.hypot(4, 4)  # two places of two pixels each way
    assert 0 < found["stage_0/block_0"].max() < furthest


def test_a_probe_is_at_no_distance():
    model = loaded("vit", pool="map")
    assert list(attention_distances(model, pictures(model))) == ["block_0", "block_1"]
    layer = AttentionLayer("map_pool", random_attention(1, 1, 1, 1, 4), np.arange(4)[None], (2, 2))
    with pytest.raises(UserError, match="in map_pool a learned probe attends"):
        mean_distance(layer, (8, 8))
