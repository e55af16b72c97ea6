import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.staged import QUICKLY, apply, assert_trees_close, output_and_gradients, outputs, random_variables
from vit_jax.models import create_model
from vit_jax.models.mobilevit import MobileViT, fold, unfold

IMAGES = np.random.default_rng(0).normal(size=(2, 26, 18, 3)).astype(np.float32)
SIZES = {
    "num_classes": 5,
    "depths": (1, 2),
    "widths": (8, 8),
    "transformer_depths": (0, 1),
    "transformer_widths": (0, 8),
    "heads": 2,
    "stem_width": 8,
    "last_width": 8,
}


def tiny(**fields):
    return MobileViT(**{**SIZES, **fields})


@pytest.fixture(scope="module")
def variables():
    return random_variables(tiny(), IMAGES)


@pytest.fixture(scope="module")
def given(variables):
    return outputs(tiny(), variables, IMAGES)


@pytest.mark.parametrize(
    ("name", "count"), [("mobilevit_xxs", 1_272_024), ("mobilevit_xs", 2_317_848), ("mobilevit_s", 5_578_632)]
)
def test_published_sizes(name, count):
    variables = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 64, 64, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_sequences_are_the_same_places_of_all_patches():
    """Patches of 2x3 in a map of 4x6: the first sequence holds the corners of all four patches."""
    x = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    sequences = unfold(x, (2, 3))
    assert sequences.shape == (2 * 6, 4, 1)
    np.testing.assert_array_equal(sequences[0, :, 0], [0, 3, 12, 15])
    np.testing.assert_array_equal(sequences[6 + 5, :, 0], 24 + np.array([8, 11, 20, 23]))
    np.testing.assert_array_equal(fold(sequences, (2, 3), (4, 6)), x)


@pytest.mark.parametrize("size", [(1, 1), (26, 18), (64, 33)])
def test_maps_of_any_image(size):
    model, images = tiny(), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, (0, -1), method="intermediates"), variables, images)
    assert [one.shape[1:3] for one in maps] == [tuple(-(-side // stride) for side in size) for stride in (2, 4)]


def test_logits_are_of_the_mean_of_the_last_map(variables, given):
    features, embedded = given["features"], given["embed"]
    assert features.shape == (2, 7, 5, 8)
    np.testing.assert_allclose(embedded, features.mean((1, 2)), rtol=1e-5, atol=1e-6)
    head = variables["params"]["head"]
    expected = embedded @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(given["__call__"], expected, rtol=1e-4, atol=1e-5)


def test_without_classes_or_a_last_convolution(variables, given):
    kept = {name: tree for name, tree in variables["params"].items() if name not in ("head", "pre_logits")}
    stats = {name: tree for name, tree in variables["batch_stats"].items() if name != "pre_logits"}
    bare = tiny(num_classes=0, last_width=0)
    expected = given["stages"][-1].mean((1, 2))
    np.testing.assert_allclose(apply(bare, {"params": kept, "batch_stats": stats}, IMAGES), expected, 1e-5, 1e-6)


def test_the_head_starts_at_zero_and_blocks_with_a_shortcut_as_such():
    model = tiny(depths=(2,), widths=(8,), transformer_depths=(0,), transformer_widths=(0,), head_bias=-3.0)
    logits, variables = jax.jit(model.init_with_output, compiler_options=QUICKLY)(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(logits, np.full((2, 5), -3.0))
    first = apply(model, variables, IMAGES, method="first_map")
    (last,) = apply(model, variables, IMAGES, method="intermediates", layers=(0,))
    np.testing.assert_array_equal(last, first)


@pytest.fixture(scope="module")
def loop(variables):
    return output_and_gradients(tiny(dropout=0.3, drop_path=0.5), variables, IMAGES)


def test_remat_changes_nothing(variables, loop):
    actual = output_and_gradients(tiny(dropout=0.3, drop_path=0.5, remat="dots"), variables, IMAGES)
    assert_trees_close(actual, loop, 2e-5)


def test_dropping_needs_a_key_in_training_alone(variables, given, loop):
    dropping = apply(tiny(drop_path=0.5), variables, IMAGES)
    np.testing.assert_allclose(dropping, given["__call__"], rtol=1e-5, atol=1e-6)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda v: tiny(drop_path=0.5).apply(v, IMAGES, train=True, mutable=["batch_stats"]), variables)
    trained = apply(tiny(), variables, IMAGES, train=True, mutable=["batch_stats"])[0]
    assert np.abs(loop[0][0] - trained).max() > 1e-2


def test_bfloat16(variables, given):
    model = tiny(dtype="bfloat16")
    (logits, _), gradients = output_and_gradients(model, variables, IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    exact = given["__call__"]
    np.testing.assert_allclose(apply(model, variables, IMAGES), exact, atol=0.05 * np.abs(exact).max())
    assert jax.eval_shape(lambda v: model.apply(v, IMAGES, method="features"), variables).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transformer_depths": (0,)}, r"transformer_depths \(0,\) must have a number, 0 or more, for each stage"),
        ({"transformer_widths": (0, 0)}, "stage 1 has a transformer of depth 1 and width 0; both are 0, or none"),
        ({"depths": (1, 1)}, "stage 1 has a transformer, and so at least 2 blocks, not 1"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"heads": 3}, "width 8 is not a multiple of 3 heads"),
        ({"patch_size": (2, 0)}, r"patch_size \(2, 0\) must be positive"),
        ({"last_width": -1}, "last_width must not be negative, not -1"),
        ({"expand_ratio": 0.0}, "mlp_ratio 2.0 and expand_ratio 0.0 must be positive"),
        ({"kernel_size": 4}, "kernel_size must be odd and positive, not 4"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)
