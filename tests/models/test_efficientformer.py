import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.staged import QUICKLY, apply, assert_trees_close, output_and_gradients, outputs, random_variables
from vit_jax.models import create_model
from vit_jax.models.efficientformer import AttentionBlock, EfficientFormer, pooled_neighbours

IMAGES = np.random.default_rng(0).normal(size=(2, 26, 18, 3)).astype(np.float32)
SIZES = {
    "num_classes": 5,
    "depths": (1, 1),
    "widths": (6, 8),
    "heads": 2,
    "head_dim": 3,
    "value_dim": 5,
    "mlp_ratio": 2.0,
    "layer_scale": 0.5,
}


def tiny(**fields):
    return EfficientFormer(**{**SIZES, **fields})


@pytest.fixture(scope="module")
def variables():
    return random_variables(tiny(), IMAGES)


@pytest.fixture(scope="module")
def given(variables):
    return outputs(tiny(), variables, IMAGES)


@pytest.mark.parametrize(
    ("name", "count"),
    [("efficientformer_l1", 12_289_928), ("efficientformer_l3", 31_406_000), ("efficientformer_l7", 82_229_328)],
)
def test_published_sizes(name, count):
    variables = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("size", [1, 3, 5])
def test_neighbours_outside_of_the_map_do_not_count(size):
    x = np.random.default_rng(1).normal(size=(1, 4, 2, 3)).astype(np.float32)
    found, reach = pooled_neighbours(x, size), size // 2
    for i in range(4):
        for j in range(2):
            near = x[0, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            np.testing.assert_allclose(found[0, i, j], near.mean((0, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (26, 18), (64, 33)])
def test_maps_of_any_image(size):
    model, images = tiny(), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, (0, -1), method="intermediates"), variables, images)
    places = [tuple(-(-side // stride) for side in size) for stride in (4, 8)]
    assert [one.shape[1:3] for one in maps] == places
    table = variables["params"]["encoder"]["stage_1"]["block_0"]["offset_bias"]["table"]
    assert table.shape == (*places[-1], 2)


def test_another_grid_than_that_of_the_parameters_is_an_error(variables):
    message = "relative positions are made for a grid of 4x3, but the image needs 3x4; load the weights for that image"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda v: tiny().apply(v, IMAGES.transpose(0, 2, 1, 3)), variables)


def test_logits_are_the_mean_of_two_heads_of_the_mean_of_the_tokens(variables, given):
    embedded, (labelled, taught) = given["embed"], given["token_logits"]
    assert given["features"].shape == (2, 4 * 3, 8)
    np.testing.assert_allclose(embedded, given["features"].mean(1), rtol=1e-5, atol=1e-6)
    for name, logits in (("head", labelled), ("head_dist", taught)):
        head = variables["params"][name]
        np.testing.assert_allclose(logits, embedded @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["__call__"], (labelled + taught) / 2, rtol=1e-5, atol=1e-6)
    one = {**variables, "params": {name: leaf for name, leaf in variables["params"].items() if name != "head_dist"}}
    np.testing.assert_allclose(apply(tiny(dist_classifier=False), one, IMAGES), labelled, rtol=1e-5, atol=1e-6)
    none = {**one, "params": {name: leaf for name, leaf in one["params"].items() if name != "head"}}
    np.testing.assert_allclose(apply(tiny(num_classes=0), none, IMAGES), embedded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{"num_classes": 0}, {"dist_classifier": False}])
def test_two_heads_logits_need_two_heads(variables, fields):
    with pytest.raises(ValueError, match="token_logits needs both heads"):
        jax.eval_shape(lambda v: tiny(**fields).apply(v, IMAGES, method="token_logits"), variables)


def test_features_are_the_last_map_after_the_norm(variables, given):
    last = given["stages"][-1]
    scale, bias = (variables["params"]["norm"][name] for name in ("scale", "bias"))
    centred = last - last.mean(-1, keepdims=True)
    expected = centred / np.sqrt(last.var(-1, keepdims=True) + 1e-5) * scale + bias
    np.testing.assert_allclose(given["features"], expected.reshape(2, 12, 8), rtol=1e-3, atol=1e-4)


def test_attention_sees_offsets_whatever_their_sign(variables):
    """A map that is turned upside down comes out upside down; one with two rows exchanged does not."""
    block = variables["params"]["encoder"]["stage_1"]["block_0"]
    attending = AttentionBlock(2, 16, layer_scale=0.5, head_dim=3, value_dim=5, attention_kernel="plain")
    attended = jax.jit(lambda x: attending.apply({"params": block}, x, False), compiler_options=QUICKLY)
    x = np.random.default_rng(2).normal(size=(1, 4, 3, 8)).astype(np.float32)
    found = attended(x)
    np.testing.assert_allclose(attended(x[:, ::-1, ::-1])[:, ::-1, ::-1], found, rtol=1e-4, atol=1e-5)
    assert np.abs(attended(x[:, [1, 0, 2, 3]])[:, [1, 0, 2, 3]] - found).max() > 1e-3


def test_heads_start_at_zero():
    logits = jax.jit(tiny(head_bias=-3.0).init_with_output, compiler_options=QUICKLY)(jax.random.key(0), IMAGES)[0]
    np.testing.assert_array_equal(logits, np.full((2, 5), -3.0))


@pytest.fixture(scope="module")
def loop(variables):
    return output_and_gradients(tiny(dropout=0.3, drop_path=0.5), variables, IMAGES)


def test_remat_changes_nothing(variables, loop):
    actual = output_and_gradients(tiny(dropout=0.3, drop_path=0.5, remat="full"), variables, IMAGES)
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
    stages = jax.eval_shape(lambda v: model.apply(v, IMAGES, (0, 1), method="intermediates"), variables)
    assert {one.dtype for one in stages} == {jnp.dtype("float32")}  # the residual stream


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_blocks": 2}, "attention_blocks must be from 0 to 1, not 2"),
        ({"pool_size": 2}, "pool_size must be odd and positive, not 2"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"value_dim": 0}, "value_dim must be at least 1, not 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 must be positive"),
        ({"remat": "nonsense"}, "remat must be one of none, dots, full, not 'nonsense'"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)
