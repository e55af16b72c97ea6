import jax
import numpy as np
import pytest

from vit_jax.layers.position import PositionEmbed, sincos2d, sinusoidal1d


def test_sincos2d_is_the_formula_row_by_row():
    rows, columns, width = 3, 5, 12
    table = sincos2d(rows, columns, width)
    assert table.shape == (15, 12)
    omega = 1 / 10_000 ** (np.arange(3) / 2)
    for y in range(rows):
        for x in range(columns):
            expected = [*np.sin(x * omega), *np.cos(x * omega), *np.sin(y * omega), *np.cos(y * omega)]
            np.testing.assert_allclose(table[y * columns + x], expected, atol=1e-6)


def test_sincos2d_tells_all_places_apart():
    table = sincos2d(14, 14, 16)
    distances = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert (distances + np.eye(196) > 0.1).all()


@pytest.mark.parametrize("width", [4, 10])
def test_sincos2d_of_another_width_is_an_error(width):
    with pytest.raises(ValueError, match=f"multiple of 4 and at least 8, not {width}"):
        sincos2d(2, 2, width)


def test_learned_positions_are_added_one_for_each_token(normal, random_params):
    tokens = normal(2, 7, 4)
    layer = PositionEmbed("learned", prefix=1)
    params = random_params(layer, tokens, 2, 3)
    assert params["embedding"].shape == (1, 7, 4)
    np.testing.assert_array_equal(layer.apply({"params": params}, tokens, 2, 3), tokens + params["embedding"])


def test_learned_positions_start_small():
    embedding = jax.jit(PositionEmbed("learned", 1).init, static_argnums=(2, 3))(
        jax.random.key(0), np.zeros((1, 65, 32), np.float32), 8, 8
    )["params"]["embedding"]
    assert 0.018 < embedding.std() < 0.022


def test_sincos2d_stores_nothing_and_leaves_the_prefix_alone(normal):
    tokens = normal(2, 8, 8)
    y = PositionEmbed("sincos2d", prefix=2).apply({}, tokens, 2, 3)
    np.testing.assert_array_equal(y[:, :2], tokens[:, :2])
    np.testing.assert_allclose(y[:, 2:], tokens[:, 2:] + sincos2d(2, 3, 8), rtol=1e-6)


def test_sinusoidal1d_counts_patches_row_by_row(normal):
    """PE(p, 2i) = sin(p / 10000^(2i/width)), PE(p, 2i+1) its cosine."""
    tokens = normal(2, 7, 6)
    y = PositionEmbed("sinusoidal1d", prefix=1).apply({}, tokens, 2, 3)
    np.testing.assert_array_equal(y[:, 0], tokens[:, 0])
    for place in range(6):
        angles = [place / 10_000 ** (2 * i / 6) for i in range(3)]
        expected = [function(angle) for angle in angles for function in (np.sin, np.cos)]
        np.testing.assert_allclose(y[:, 1 + place] - tokens[:, 1 + place], [expected] * 2, atol=1e-6)
    with pytest.raises(ValueError, match="sinusoidal1d needs an even width, not 5"):
        sinusoidal1d(4, 5)


@pytest.mark.parametrize("kind", ["none", "rope2d", "relative"])
def test_what_is_no_embedding_changes_nothing(normal, kind):
    tokens = normal(2, 6, 4)
    assert PositionEmbed(kind, prefix=0).apply({}, tokens, 2, 3) is tokens


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="rope2d, relative, none, not 'rotary'"):
        PositionEmbed("rotary", prefix=0).apply({}, np.ones((1, 4, 8)), 2, 2)
