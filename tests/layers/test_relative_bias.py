import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.grid_tokens import Layout, whole_grid
from vit_jax.layers.relative_bias import (
    ContinuousRelativeBias,
    OffsetTable,
    RelativeBias,
    log_coordinates,
    resize_table,
)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_each_pair_has_the_number_of_its_offset():
    table = normal(5, 7, 2)
    bias = RelativeBias(2).apply({"params": {"table": table}}, 3, 4)
    assert bias.shape == (1, 2, 12, 12)
    for query, key in ((0, 0), (0, 11), (11, 0), (5, 2), (7, 8)):
        offset = [q - k for q, k in zip(divmod(query, 4), divmod(key, 4), strict=True)]
        np.testing.assert_array_equal(bias[0, :, query, key], table[offset[0] + 2, offset[1] + 3])


def test_cls_token_has_three_numbers_of_its_own():
    params = {"table": normal(3, 3, 2), "cls": normal(3, 2) + 9}
    bias = RelativeBias(2, cls=True).apply({"params": params}, 2, 2)[0]
    to_token, from_token, own = params["cls"]
    np.testing.assert_array_equal(bias[:, 0, 1:], np.repeat(to_token[:, None], 4, 1))
    np.testing.assert_array_equal(bias[:, 1:, 0], np.repeat(from_token[:, None], 4, 1))
    np.testing.assert_array_equal(bias[:, 0, 0], own)
    np.testing.assert_array_equal(
        bias[:, 1:, 1:], RelativeBias(2).apply({"params": {"table": params["table"]}}, 2, 2)[0]
    )


def test_table_of_another_grid_is_an_error():
    with pytest.raises(ValueError, match="made for a grid of 3x4, but the image needs 4x4"):
        RelativeBias(2).apply({"params": {"table": normal(5, 7, 2)}}, 4, 4)


def test_log_coordinates_are_those_of_the_paper():
    found = log_coordinates(8, 4)
    assert found.shape == (15, 7, 2)
    np.testing.assert_allclose(found[14, 6], np.log2(9) / 3, rtol=1e-6)
    np.testing.assert_allclose(found, -found[::-1, ::-1], rtol=1e-6)
    np.testing.assert_allclose(log_coordinates(4, 4, trained_window=8)[6, 3, 0], np.log2(1 + 8 * 3 / 7) / 3, rtol=1e-6)
    np.testing.assert_array_equal(log_coordinates(1, 1), np.zeros((1, 1, 2)))


def test_continuous_bias_lies_between_0_and_16_and_its_parameters_fit_all_windows():
    model = ContinuousRelativeBias(3)
    bias, variables = model.init_with_output(jax.random.key(0), 2, 3)
    assert bias.shape == (1, 3, 6, 6)
    assert 0 < bias.min() < bias.max() < 16
    assert model.apply(variables, 5, 5).shape == (1, 3, 25, 25)
    # Coordinates are odd functions of the offset: hidden units that see it alone give a bias that depends on it alone.
    np.testing.assert_array_equal(bias[0, :, 0, 1], bias[0, :, 4, 5])


def test_resized_tables_keep_the_centre_and_constant_tables():
    table = normal(5, 5, 2)
    np.testing.assert_array_equal(resize_table(table, (5, 5)), table)
    for shape in ((9, 7), (3, 3)):
        resized = resize_table(table, shape)
        assert resized.shape == (*shape, 2)
        np.testing.assert_allclose(resized[shape[0] // 2, shape[1] // 2], table[2, 2], rtol=1e-6)
        np.testing.assert_allclose(resize_table(np.ones((5, 5, 2), np.float32), shape), 1.0, rtol=1e-6)
    # The neighbour of the centre stays where it was, the farthest goes to the edge.
    wide = resize_table(table, (9, 5))
    np.testing.assert_allclose(wide[5, 2], table[3, 2], rtol=1e-5)


LAYOUT = Layout((2, 3), 2)


def test_table_of_offsets_is_that_of_beit_for_one_token_before_the_patches(normal, random_params):
    one = LAYOUT.replace(prefix=1)
    params = random_params(OffsetTable(2), one)
    of_prefix, to_prefix = params["prefix"][:, 0]
    cls = np.stack([of_prefix, to_prefix, params["among_prefix"][0, 0]])
    expected = RelativeBias(2, cls=True).apply({"params": {"table": params["table"], "cls": cls}}, 2, 3)
    np.testing.assert_array_equal(OffsetTable(2).apply({"params": params}, one).dense(one), expected)


def test_every_token_before_the_patches_has_numbers_of_its_own(random_params):
    params = random_params(OffsetTable(2), LAYOUT)
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == {"table": (3, 5, 2), "prefix": (2, 2, 2), "among_prefix": (2, 2, 2)}
    added = OffsetTable(2).apply({"params": params}, LAYOUT).dense(LAYOUT)[0]
    np.testing.assert_array_equal(added[:, :2, :2], params["among_prefix"].transpose(2, 0, 1))
    for token in (0, 1):
        np.testing.assert_array_equal(added[:, token, 2:], np.repeat(params["prefix"][0, token][:, None], 6, 1))
        np.testing.assert_array_equal(added[:, 2:, token], np.repeat(params["prefix"][1, token][:, None], 6, 1))
    assert set(random_params(OffsetTable(2), LAYOUT.replace(prefix=0))) == {"table"}


def test_patches_that_are_left_keep_their_offsets(random_params):
    scores = OffsetTable(2).apply({"params": random_params(OffsetTable(2), LAYOUT)}, LAYOUT)
    kept = np.array([[0, 2, 5], [1, 3, 4]])
    left = LAYOUT.replace(places=jnp.asarray(whole_grid(LAYOUT.grid)[kept], jnp.float32))
    whole, added = scores.dense(LAYOUT)[0], scores.dense(left)
    for example in (0, 1):
        tokens = np.array([0, 1, *(2 + kept[example])])
        np.testing.assert_array_equal(added[example], whole[:, tokens][:, :, tokens])


def test_a_table_for_another_grid_is_an_error(random_params):
    params = random_params(OffsetTable(2), LAYOUT)
    with pytest.raises(ValueError, match="made for a grid of 2x3, but the image needs 3x3"):
        OffsetTable(2).apply({"params": params}, LAYOUT.replace(grid=(3, 3)))
