import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.attention import Attention
from vit_jax.layers.attention_kind import Full, Given
from vit_jax.layers.attention_kinds import attention_kind
from vit_jax.layers.attention_linear import Linear
from vit_jax.layers.grid_tokens import Layout, whole_grid
from vit_jax.layers.product import attention_scores
from vit_jax.layers.rope import rotated

LAYOUT = Layout((3, 5), 2)


def placed(shift=(0.0, 0.0)):
    """Returns the layout with every patch moved, prefix included only in name."""
    places = whole_grid(LAYOUT.grid)[None] + np.array(shift)
    return LAYOUT.replace(places=places.astype(np.float32))


def test_turns_pairs_of_channels_by_row_and_by_column(normal):
    """As products with e^(i angle), channel by channel."""
    x = normal(2, LAYOUT.tokens, 3, 8)
    complex_numbers = x[..., :4] + 1j * x[..., 4:]
    frequencies = np.array([1.0, 0.1])
    for token, place in enumerate(whole_grid(LAYOUT.grid)):
        angles = np.concatenate([place[0] * frequencies, place[1] * frequencies])
        complex_numbers[:, 2 + token] *= np.exp(1j * angles)
    expected = np.concatenate([complex_numbers.real, complex_numbers.imag], axis=-1)
    np.testing.assert_allclose(rotated(x, LAYOUT), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rotated(x, LAYOUT)[:, :2], x[:, :2])


@pytest.mark.parametrize("shift", [(4.0, 0.0), (0.0, -7.0), (2.5, 30.0)])
def test_scores_of_patches_depend_on_offsets_only(normal, shift):
    query, key = normal(1, LAYOUT.tokens, 2, 8), normal(1, LAYOUT.tokens, 2, 8)

    def scores(layout):
        return attention_scores(rotated(query, layout), rotated(key, layout))[:, 2:, 2:]

    np.testing.assert_allclose(scores(placed(shift)), scores(LAYOUT), rtol=1e-4, atol=1e-5)
    stretched = LAYOUT.replace(places=2 * placed().places)
    assert np.abs(scores(stretched) - scores(LAYOUT)).max() > 0.1


def test_equal_tokens_have_equal_scores_at_equal_offsets(normal):
    """On any grid: here wider than high, and a larger one."""
    token = normal(1, 1, 1, 8)

    def scores(grid):
        turned = rotated(np.repeat(token, np.prod(grid), axis=1), Layout(grid, 0))
        return attention_scores(turned, turned)[0].reshape(*grid, *grid)

    small, large = scores((3, 5)), scores((6, 9))
    np.testing.assert_allclose(small[0, 0], large[2, 3, 2:5, 3:8], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(small[1, 2], large[4, 4, 3:6, 2:7], rtol=1e-4, atol=1e-5)


def test_linear_attention_turns_features_and_not_what_it_divides_by(normal):
    """Moved together, patches weigh each other as before; the weights of a row need not sum to 1."""
    query, key = normal(1, LAYOUT.tokens, 2, 8), normal(1, LAYOUT.tokens, 2, 8)
    kind = Linear(rotary=True)
    weights = kind.weights(query, key, Given(layout=LAYOUT))
    moved = kind.weights(query, key, Given(layout=placed((3.0, -2.0))))
    np.testing.assert_allclose(moved[:, 2:, 2:], weights[:, 2:, 2:], rtol=1e-4, atol=1e-5)
    plain = Linear().weights(query, key, Given())
    np.testing.assert_allclose(weights[:, :2, :2], plain[:, :2, :2], rtol=1e-5)
    assert np.abs(weights.sum(-1) - 1).max() > 0.05


@pytest.mark.parametrize("name", ["full", "local", "axial", "sparse", "topk", "linear", "performer"])
def test_every_kind_turns_and_shows_what_it_does(normal, random_params, name):
    """The weights that are sown mix the values to what comes out; without turning something else does."""
    kind = attention_kind(name, "rope2d", {"attention_topk": 4} if name == "topk" else {})
    x = normal(2, LAYOUT.tokens, 16)
    variables = {"params": random_params(Attention(2), x)}

    def run(kind):
        layer = Attention(2, kind=kind)
        return layer.apply(variables, x, layout=LAYOUT, mutable=["attention"])

    y, sown = jax.jit(run, static_argnums=0)(kind)
    params = variables["params"]
    value = np.einsum("btw,whd->bthd", x, params["value"]["kernel"]) + params["value"]["bias"]
    mixed = np.einsum("bhqk,bkhd->bqhd", sown["attention"]["weights"], value)
    expected = np.einsum("bqhd,hdw->bqw", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(y - jax.jit(run, static_argnums=0)(attention_kind(name, "none", {}))[0]).max() > 1e-2


def test_patches_that_are_left_keep_their_places(normal):
    x, kept = normal(2, LAYOUT.tokens, 2, 8), np.array([[0, 4, 9, 14], [1, 2, 3, 13]])
    places = whole_grid(LAYOUT.grid)[kept].astype(np.float32)
    left = np.stack([x[i, [0, 1, *(2 + kept[i])]] for i in range(2)])
    expected = np.stack([rotated(x, LAYOUT)[i, np.array([0, 1, *(2 + kept[i])])] for i in range(2)])
    np.testing.assert_allclose(rotated(left, LAYOUT.replace(places=places)), expected, rtol=1e-5, atol=1e-6)


def test_compute_type_is_kept_and_angles_are_not_rounded():
    """A large grid's last place in bfloat16 is where float32 has it."""
    layout = Layout((1, 300), 0)
    x = jnp.ones((1, 300, 1, 4), "bfloat16")
    y = rotated(x, layout)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype("float32"), rotated(x.astype("float32"), layout), atol=0.01)


def test_channels_that_are_no_multiple_of_4_are_an_error():
    with pytest.raises(ValueError, match="pairs of channels by row and by column: 6 channels a head"):
        rotated(np.ones((1, LAYOUT.tokens, 1, 6), np.float32), LAYOUT)
    assert Full(rotary=True).placed
