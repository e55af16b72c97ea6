"""Attention laid back onto the image, against places that are found one by one."""

import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures, random_attention
from vit_jax.errors import UserError
from vit_jax.explanation import heat_maps, layer_attention
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.placement import NOWHERE, AttentionLayer, window_places


def observed(family, **fields):
    model = loaded(family, **fields)
    return Observation(model, model.preprocessing.normalised(pictures(model)))


@pytest.mark.parametrize("square_windows", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("sides", [(6, 9), (7, 10), (3, 8), (2, 2)])
def test_windows_hold_the_places_that_a_loop_finds(sides, shifted, square_windows):
    """A place moves up and left by the shift, round the map (or the padded one), and falls into a window."""
    found = window_places(sides, 3, shifted, square_windows)
    by = [min(sides)] * 2 if square_windows else sides
    sizes = [min(3, side) for side in by]
    shifts = [1 if shifted and side > size else 0 for side, size in zip(by, sizes, strict=True)]
    padded = [-(-side // size) * size for side, size in zip(sides, sizes, strict=True)]
    round_what = padded if square_windows else sides
    expected = np.full_like(found, NOWHERE)
    assert len(found) == padded[0] // sizes[0] * (padded[1] // sizes[1])
    for row in range(sides[0]):
        for column in range(sides[1]):
            down, right = (row - shifts[0]) % round_what[0], (column - shifts[1]) % round_what[1]
            window = down // sizes[0] * (padded[1] // sizes[1]) + right // sizes[1]
            token = down % sizes[0] * sizes[1] + right % sizes[1]
            expected[window, token] = row * sides[1] + column
    np.testing.assert_array_equal(found, expected)


def test_swins_maps_are_those_of_a_loop_over_windows_queries_and_keys():
    """A 6x10 map in windows of 3x3: padded along the columns; the second block's windows are shifted."""
    seen = observed("swin")
    assert list(seen.layers) == ["stage_0/block_0", "stage_0/block_1", "stage_1/block_0"]
    for name, sides in (("stage_0/block_0", (6, 10)), ("stage_0/block_1", (6, 10)), ("stage_1/block_0", (3, 5))):
        layer = seen.layers[name]
        received, asked = np.zeros((2, layer.weights.shape[2], *sides)), np.zeros((2, layer.weights.shape[2], *sides))
        chosen = (2, 4)
        for window, places in enumerate(layer.places):
            for query, key in np.ndindex(len(places), len(places)):
                if NOWHERE in (places[query], places[key]):
                    continue
                to = np.unravel_index(places[key], sides)
                received[(..., *to)] += layer.weights[:, window, :, query, key] / (sides[0] * sides[1])
                if tuple(np.unravel_index(places[query], sides)) == chosen:
                    asked[(..., *to)] += layer.weights[:, window, :, query, key]
        assert layer.grid == sides
        np.testing.assert_allclose(layer.asked(), received, atol=1e-6)
        np.testing.assert_allclose(layer.asked(layer.only(*chosen)), asked, atol=1e-6)
        assert 0 < asked.sum() <= 2 * layer.weights.shape[2] * 1.0001


def test_windows_that_divide_the_map_lose_no_attention():
    for maps in layer_attention(*(lambda m: (m, pictures(m)))(loaded("swin", (12, 12)))).values():
        if maps.shape[-1] == 6:
            np.testing.assert_allclose(maps.sum((2, 3)), 1, rtol=1e-5)


def test_mobilevits_tokens_attend_to_the_same_place_of_other_patches():
    seen = observed("mobilevit")
    assert list(seen.layers) == ["stage_1/block_1/layer_0", "stage_1/block_1/layer_1"]
    layer = seen.layers["stage_1/block_1/layer_1"]
    rows, columns = layer.grid
    reached = layer.asked(layer.only(1, 2))[0, 0] > 0
    expected = np.zeros((rows, columns), bool)
    expected[1::2, 0::2] = True
    np.testing.assert_array_equal(reached, expected)
    np.testing.assert_allclose(layer.asked().sum((2, 3)), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "fields", "prefix"),
    [
        ("vit", {}, 1),
        ("vit", {"registers": 2}, 3),
        ("vit_distilled", {}, 2),
        ("beit", {}, 1),
        ("vit", {"pool": "gap"}, 0),
    ],
)
def test_the_patches_are_the_last_tokens(family, fields, prefix):
    seen = observed(family, **fields)
    layer = seen.layers["block_1"]
    assert (layer.prefix, layer.grid, layer.everywhere) == (prefix, (2, 3), True)
    np.testing.assert_allclose(
        layer.asked(layer.only(1, 0))[1, 0].ravel(), layer.weights[1, 0, 0, prefix + 3, prefix:], rtol=1e-6
    )


def test_an_efficientformer_attends_in_its_last_stage():
    seen = observed("efficientformer")
    assert list(seen.layers) == ["stage_1/block_1"]
    assert seen.layers["stage_1/block_1"].grid == (2, 3)


def test_attention_pooling_is_the_last_layer_and_its_probe_is_nowhere():
    seen = observed("vit", pool="map")
    assert list(seen.layers) == ["block_0", "block_1", "map_pool"]
    pool = seen.layers["map_pool"]
    np.testing.assert_allclose(pool.asked().reshape(2, 2, 6), pool.weights[:, 0, :, 0], rtol=1e-6)
    with pytest.raises(UserError, match="in map_pool a learned probe attends"):
        pool.only(0, 0)
    model = loaded("vit", pool="map")
    np.testing.assert_allclose(heat_maps(model, pictures(model), "attention"), pool.asked().mean(1), rtol=1e-5)


def test_a_place_that_is_not_there():
    layer = AttentionLayer("block_0", random_attention(1, 1, 1, 6, 6), np.arange(6)[None], (2, 3))
    with pytest.raises(UserError, match="block_0 has 2x3 places; there is no 2,0"):
        layer.only(2, 0)
