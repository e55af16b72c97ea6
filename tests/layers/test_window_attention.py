import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import ATTENTION, Attention
from vit_jax.layers.product import attend
from vit_jax.layers.window_attention import (
    WindowAttention,
    join_windows,
    regions,
    shift_mask,
    split_windows,
    window_of,
)

WIDTH, HEADS = 8, 2


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    params = Attention(HEADS).init(jax.random.key(0), normal(1, 4, WIDTH))
    return jax.tree.map(lambda leaf: normal(*leaf.shape) / 2, params)


def attended(variables, x, bias=None, **fields):
    model = WindowAttention(HEADS, kernel="plain", **fields)
    return np.asarray(jax.jit(lambda v, x: model.apply(v, x, bias=bias))(variables, x))


def naive(variables, x, bias, window, shift, padded_first):
    """Attention of each place to all others at once, those that are in other windows or regions masked.

    A map of its own rows and columns: where each place comes to lie after shift and padding, place by place.
    """
    _, rows, columns, _ = x.shape
    sides = [-(-side // size) * size for side, size in zip((rows, columns), window, strict=True)]
    whole = np.zeros((x.shape[0], *sides, WIDTH), np.float32)
    place = {}
    for i in range(sides[0]):
        for j in range(sides[1]):
            wrap = sides if padded_first else (rows, columns)
            inside = (i < wrap[0], j < wrap[1])
            source = tuple(
                (at + by) % around if within else at
                for at, by, around, within in zip((i, j), shift, wrap, inside, strict=True)
            )
            place[i, j] = source
            if source[0] < rows and source[1] < columns and all(inside):
                whole[:, i, j] = x[:, source[0], source[1]]
    area = window[0] * window[1]
    number = {at: (at[0] // window[0], at[1] // window[1]) for at in place}
    region = regions(tuple(sides), window, shift)
    order = [(i, j) for i in range(sides[0]) for j in range(sides[1])]
    scores = np.full((HEADS, len(order), len(order)), -np.inf, np.float32)
    for a, query in enumerate(order):
        for b, key in enumerate(order):
            if number[query] == number[key]:
                inner = [(at[0] % window[0]) * window[1] + at[1] % window[1] for at in (query, key)]
                assert max(inner) < area
                apart = region[query] != region[key]
                scores[:, a, b] = bias[:, inner[0], inner[1]] + (-100.0 if apart else 0.0)
    tokens = whole.reshape(x.shape[0], len(order), WIDTH)
    out = Attention(HEADS, kernel="plain").apply(variables, tokens, bias=jnp.asarray(scores)[None])
    result = np.zeros_like(x)
    for a, at in enumerate(order):
        source = place[at]
        if source[0] < rows and source[1] < columns and (padded_first or (at[0] < rows and at[1] < columns)):
            result[:, source[0], source[1]] = out[:, a]
    return result


@pytest.mark.parametrize(
    ("sides", "fields", "size", "shift"),
    [
        ((4, 4), {"window": 2, "shifted": True}, (2, 2), (1, 1)),
        ((5, 6), {"window": 3, "shifted": True}, (3, 3), (1, 1)),
        ((5, 4), {"window": 3}, (3, 3), (0, 0)),
        ((2, 5), {"window": 3, "shifted": True}, (2, 3), (0, 1)),
        ((2, 7), {"window": 5, "shifted": True, "deciding_rows": 3}, (3, 3), (0, 0)),
        ((4, 4), {"window": 2, "shifted": True, "square_windows": True}, (2, 2), (1, 1)),
        ((5, 6), {"window": 3, "shifted": True, "square_windows": True}, (3, 3), (1, 1)),
        ((5, 4), {"window": 3, "square_windows": True}, (3, 3), (0, 0)),
        ((3, 7), {"window": 3, "shifted": True, "square_windows": True}, (3, 3), (0, 0)),
        ((5, 2), {"window": 3, "shifted": True, "square_windows": True}, (2, 2), (0, 0)),
        ((4, 7), {"window": 3, "shifted": True, "square_windows": True, "deciding_rows": 3}, (3, 3), (0, 0)),
        ((2, 5), {"window": 3, "shifted": True, "square_windows": True, "deciding_rows": 8}, (3, 3), (1, 1)),
    ],
)
def test_is_the_definition(variables, sides, fields, size, shift):
    """Of windows and shifts that are written out; square ones shift what was padded first."""
    x = normal(2, *sides, WIDTH)
    bias = normal(HEADS, size[0] * size[1], size[0] * size[1])
    found = attended(variables, x, bias[None], **fields)
    expected = naive(variables, x, bias, size, shift, padded_first="square_windows" in fields)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_windows_shrink_to_small_maps_and_are_then_not_shifted():
    assert window_of((14, 14), 7, True) == ((7, 7), (3, 3))
    assert window_of((14, 14), 7, False) == ((7, 7), (0, 0))
    assert window_of((7, 14), 7, True) == ((7, 7), (0, 3))
    assert window_of((4, 9), 7, True) == ((4, 7), (0, 3))


def test_square_windows_are_those_of_the_smaller_side_or_of_other_rows():
    assert window_of((14, 16), 7, True, square_windows=True) == ((7, 7), (3, 3))
    assert window_of((7, 14), 7, True, square_windows=True) == ((7, 7), (0, 0))
    assert window_of((9, 4), 7, True, square_windows=True) == ((4, 4), (0, 0))
    assert window_of((4, 9), 7, True, square_windows=True, deciding_rows=8) == ((7, 7), (3, 3))
    assert window_of((14, 14), 7, True, square_windows=True, deciding_rows=5) == ((5, 5), (0, 0))


def test_windows_are_split_and_joined():
    x = normal(2, 4, 6, 3)
    windows = split_windows(x, (2, 3))
    assert windows.shape == (8, 6, 3)
    np.testing.assert_array_equal(windows[1], x[0, :2, 3:].reshape(6, 3))
    np.testing.assert_array_equal(windows[4], x[1, :2, :3].reshape(6, 3))
    np.testing.assert_array_equal(join_windows(windows, (2, 3), (4, 6)), x)


def test_a_change_reaches_its_window_and_region_alone(variables):
    """Of a shifted 8x8 map with windows of 4, every region in each window, for a change at each of a few places."""
    x, sides, window, shift = normal(1, 8, 8, WIDTH), (8, 8), (4, 4), (2, 2)
    numbers = np.roll(regions(sides, window, shift), shift, (0, 1))
    corner = np.add.outer(np.arange(8) // 4 * 2, np.arange(8) // 4)
    home = np.roll(corner, shift, (0, 1))
    before = attended(variables, x, window=4, shifted=True)
    for place in ((0, 0), (1, 4), (7, 7), (3, 3), (6, 1)):
        changed = x.copy()
        changed[(0, *place)] += 5.0
        reached = np.any(attended(variables, changed, window=4, shifted=True) != before, axis=-1)[0]
        together = (home == home[place]) & (numbers == numbers[place])
        np.testing.assert_array_equal(reached, together)
    assert len(np.unique(numbers * 4 + home)) == 9


def test_mask_separates_the_regions_of_each_window():
    mask = shift_mask((4, 4), (2, 2), (1, 1))
    assert mask.shape == (4, 1, 4, 4)
    assert not mask[0].any()
    np.testing.assert_array_equal(mask[3, 0], np.where(np.eye(4), 0.0, -100.0))
    np.testing.assert_array_equal(shift_mask((2, 4), (2, 2), (0, 1))[1, 0], np.tile([[0, -100], [-100, 0]], (2, 2)))


def test_weights_of_each_window_can_be_shown(variables):
    x = normal(2, 4, 6, WIDTH)
    model = WindowAttention(HEADS, kernel="plain", window=2)
    _, sown = model.apply(variables, x, mutable=[ATTENTION])
    weights = sown[ATTENTION]["weights"]
    assert weights.shape == (2 * 6, HEADS, 4, 4)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_cosine_attention_is_that_of_the_paper():
    x = normal(2, 5, WIDTH)
    model = Attention(HEADS, cosine=True, key_bias=False, kernel="plain")
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) / 2, model.init(jax.random.key(0), x)["params"])
    assert list(params["key"]) == ["kernel"]
    params["logit_scale"] = np.array([1.0, 9.0], np.float32)  # exp(9) is more than 100
    q, k, v = (np.einsum("bnd,dhe->bhne", x, params[name]["kernel"]) for name in ("query", "key", "value"))
    q, v = q + params["query"]["bias"][:, None], v + params["value"]["bias"][:, None]
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    scores = np.einsum("bhqe,bhke->bhqk", q, k) * np.array([np.e, 100.0])[:, None, None]
    mixed = np.einsum("bhqk,bhke->bqhe", jax.nn.softmax(scores, -1), v)
    expected = np.einsum("bqhe,hed->bqd", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 5), (3, 2, 4, 5), (1, 2, 4, 5), (3, 1, 4, 5), (2, 1, 1, 5)])
def test_gradients_by_a_bias_are_the_ordinary_ones(shape):
    q, k, v = normal(6, 4, 2, 3), normal(6, 5, 2, 3, seed=1), normal(6, 5, 2, 3, seed=2)
    bias = normal(*shape, seed=3)

    def plain(q, k, v, bias):
        whole = bias[:, None, None] if bias.ndim == 2 else bias
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 3**0.5 + jnp.tile(whole, (6 // whole.shape[0], 1, 1, 1))
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)

    def loss(function):
        return lambda *arguments: (function(*arguments) ** 2).sum()

    found = jax.jit(jax.grad(loss(lambda q, k, v, bias: attend(q, k, v, bias=bias)), (0, 1, 2, 3)))(q, k, v, bias)
    expected = jax.jit(jax.grad(loss(plain), (0, 1, 2, 3)))(q, k, v, bias)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
