import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.layers.mixer_block import MixerBlock
from vit_jax.layers.norm import LayerNorm
from vit_jax.layers.patch_embed import PatchEmbed
from vit_jax.models import create_model
from vit_jax.models.mixer import Mixer

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
SIZES = {
    "num_classes": 5,
    "patch_size": (4, 4),
    "width": 8,
    "depth": 3,
    "tokens_mlp_dim": 7,
    "channels_mlp_dim": 12,
}


def tiny(**fields):
    return Mixer(**{**SIZES, **fields})


@functools.partial(jax.jit, static_argnames=("model", "method", "train", "layers"))
def apply(variables, images, model=None, method="__call__", **named):
    """`model.apply`, compiled once for the same model, whichever test asks."""
    return (model or tiny()).apply(variables, images, method=method, **named)


@pytest.fixture(scope="module")
def variables(random_params):
    return {"params": random_params(tiny(), IMAGES)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mixer_s32", 19_104_624),
        ("mixer_s16", 18_528_264),
        ("mixer_b32", 60_293_428),
        ("mixer_b16", 59_880_472),
        ("mixer_l16", 208_196_168),
    ],
)
def test_published_sizes(name, count):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_is_embedding_blocks_norm_mean_and_head(variables):
    params = variables["params"]
    assert list(params["encoder"]) == ["block_0", "block_1", "block_2"]
    x = PatchEmbed((4, 4), 8).apply({"params": params["patch_embed"]}, IMAGES)
    assert x.shape == (2, 6, 8)
    block = jax.jit(MixerBlock(7, 12).apply)
    for i in range(3):
        x = block({"params": params["encoder"][f"block_{i}"]}, x)
    x = LayerNorm().apply({"params": params["norm"]}, x).mean(axis=1)
    expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(apply(variables, IMAGES), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(apply(variables, IMAGES, method="embed"), x, rtol=1e-4, atol=1e-4)
    without = {"params": {name: leaf for name, leaf in params.items() if name != "head"}}
    np.testing.assert_allclose(apply(without, IMAGES, model=tiny(num_classes=0)), x, rtol=1e-4, atol=1e-4)


def test_head_starts_at_zero_with_its_bias():
    logits, variables = jax.jit(tiny(depth=1, head_bias=-10.0).init_with_output)(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], np.zeros((8, 5)))
    np.testing.assert_array_equal(logits, np.full((2, 5), -10.0))


def test_the_order_of_patches_matters(variables):
    """The token mixing alone tells them apart."""
    swapped = np.concatenate([IMAGES[:, 4:], IMAGES[:, :4]], axis=1)
    assert np.abs(apply(variables, swapped) - apply(variables, IMAGES)).max() > 1e-2


@pytest.mark.parametrize("method", ["__call__", "embed", "features", "intermediates"])
@pytest.mark.parametrize("options", [{}, {"scan_layers": True}])
def test_image_of_another_size_is_an_error(variables, options, method):
    named = {"layers": (0,)} if method == "intermediates" else {}
    with pytest.raises(ValueError, match="8x8 image has 4 patches, but this Mixer's parameters are made for 6;"):
        apply(variables, IMAGES[:, :, :8], model=tiny(**options), method=method, **named)


def test_image_that_the_patch_does_not_divide_is_an_error(variables):
    with pytest.raises(ValueError, match="image width 10 is not a multiple of patch width 4"):
        apply(variables, IMAGES[:, :, :10])


@pytest.mark.parametrize("scan_layers", [False, True])
def test_intermediates_are_counted_from_either_end(variables, scan_layers):
    model = tiny(scan_layers=scan_layers)
    last, first, third = apply(variables, IMAGES, model=model, method="intermediates", layers=(-1, 0, 2))
    np.testing.assert_array_equal(last, third)
    assert np.abs(first - third).max() > 1e-2
    normed = model.apply(variables, last, method=lambda model, tokens: model.norm(tokens))
    features = apply(variables, IMAGES, model=model, method="features")
    assert features.shape == (2, 6, 8)
    np.testing.assert_allclose(normed, features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [3, -4])
def test_intermediate_of_an_unknown_layer_is_an_error(variables, layer):
    with pytest.raises(ValueError, match=f"no layer {layer} in a model of depth 3"):
        apply(variables, IMAGES, method="intermediates", layers=(0, layer))


def test_bfloat16_compute_keeps_parameters_and_logits_in_float32(variables):
    model = tiny(dtype="bfloat16")
    tree = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert jax.eval_shape(lambda v: model.apply(v, IMAGES, method="features"), variables).dtype == jnp.bfloat16
    exact = apply(variables, IMAGES)
    np.testing.assert_allclose(apply(variables, IMAGES, model=model), exact, atol=0.05 * np.abs(exact).max())


def test_param_dtype_reaches_every_parameter():
    params = jax.eval_shape(tiny(param_dtype="bfloat16").init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_training_at_rate_zero_is_evaluation_and_needs_no_key(variables):
    np.testing.assert_array_equal(apply(variables, IMAGES, train=True), apply(variables, IMAGES, train=False))


@pytest.mark.parametrize("field", ["dropout", "drop_path"])
def test_training_with_dropout_needs_a_key_and_evaluation_none(variables, field):
    model = tiny(**{field: 0.5})
    np.testing.assert_array_equal(apply(variables, IMAGES, model=model), apply(variables, IMAGES))
    with pytest.raises(Exception, match="dropout"):
        apply(variables, IMAGES, model=model, train=True)


def output_and_gradients(variables, **options):
    """The generator is one that compiles fast; what is tested is that the keys are the same."""
    model = tiny(dropout=0.2, drop_path=0.5, **options)
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}

    def loss(variables):
        logits = model.apply(variables, IMAGES, train=True, rngs=rngs)
        return (logits**2).mean(), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
    return logits, gradients


@pytest.fixture(scope="module")
def loop(variables):
    return output_and_gradients(variables)


@pytest.mark.parametrize(("remat", "scan_layers"), [("dots", False), ("none", True), ("full", True)])
def test_scan_and_remat_change_nothing_in_training(variables, loop, remat, scan_layers):
    assert np.abs(loop[0] - apply(variables, IMAGES)).max() > 1e-2
    actual = output_and_gradients(variables, remat=remat, scan_layers=scan_layers)

    def assert_close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * max(1.0, np.abs(expected).max()))

    jax.tree.map(assert_close, actual, loop)


def test_initial_values_do_not_depend_on_scan_and_remat():
    first, second = (
        jax.jit(model.init)(jax.random.key(0), IMAGES)["params"]["encoder"]
        for model in (tiny(depth=2), tiny(depth=2, remat="full", scan_layers=True))
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    kernels = [block["token_mixing"]["dense_0"]["kernel"] for block in first.values()]
    assert (kernels[0] != kernels[1]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"remat": "nonsense"}, "remat must be one of none, dots, full, not 'nonsense'"),
        ({"gelu": "nonsense"}, "gelu must be 'tanh' or 'exact', not 'nonsense'"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"tokens_mlp_dim": 0}, "tokens_mlp_dim must be at least 1, not 0"),
        ({"channels_mlp_dim": -1}, "channels_mlp_dim must be at least 1, not -1"),
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"patch_size": (4, 0)}, r"patch_size \(4, 0\) must be positive"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and less than 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and less than 1, not -0.1"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)
