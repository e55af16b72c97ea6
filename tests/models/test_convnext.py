import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import staged
from tests.models.staged import QUICKLY, assert_trees_close, output_and_gradients
from vit_jax.models import create_model
from vit_jax.models.convnext import ConvNeXt

IMAGES = np.random.default_rng(0).normal(size=(2, 21, 14, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "depths": (1, 2), "widths": (4, 6), "grn": True, "layer_scale": 0.5}


def tiny(**fields):
    return ConvNeXt(**{**SIZES, **fields})


def apply(model, variables, images=IMAGES, **named):
    return staged.apply(model, variables, images, **named)


@pytest.fixture(scope="module")
def variables(random_params):
    return {"params": random_params(tiny(), IMAGES)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnext_tiny", 28_589_128),
        ("convnext_small", 50_223_688),
        ("convnext_base", 88_591_464),
        ("convnext_large", 197_767_336),
        ("convnextv2_atto", 3_708_400),
        ("convnextv2_femto", 5_233_240),
        ("convnextv2_pico", 9_066_280),
        ("convnextv2_nano", 15_623_800),
        ("convnextv2_tiny", 28_635_496),
        ("convnextv2_base", 88_717_800),
        ("convnextv2_large", 197_956_840),
        ("convnext_cifar", 2_685_002),
    ],
)
def test_published_sizes(name, count):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 32, 32, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("size", [(8, 8), (21, 14), (15, 40)])
@pytest.mark.parametrize("first", [False, True])
def test_maps_of_any_image(size, first):
    """Whole patches alone count, and whole pairs of rows and columns."""
    model = tiny(downsample_first=first, patch_size=2 if first else 4)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, (0, 1), method="intermediates"), variables, images)
    assert [one.shape for one in maps] == [(2, size[0] // 4, size[1] // 4, 4), (2, size[0] // 8, size[1] // 8, 6)]


@pytest.mark.parametrize("method", ["__call__", "embed", "features", "intermediates", "first_map"])
def test_an_image_of_which_nothing_would_be_left_is_an_error(variables, method):
    named = {"layers": (0,)} if method == "intermediates" else {}
    with pytest.raises(ValueError, match="image 21x7 is smaller than 8 pixels, the model's stride"):
        jax.eval_shape(lambda v: tiny().apply(v, IMAGES[:, :, :7], method=method, **named), variables)


@pytest.mark.parametrize("pool_norm", [True, False])
def test_the_final_norm_stands_after_the_mean_or_before(variables, pool_norm):
    model = tiny(pool_norm=pool_norm)
    (x,) = apply(model, variables, method="intermediates", layers=(-1,))

    def norm(x):
        scale, bias = (variables["params"]["norm"][name] for name in ("scale", "bias"))
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

    expected = norm(x.mean((1, 2))) if pool_norm else norm(x).mean((1, 2))
    np.testing.assert_allclose(apply(model, variables, method="embed"), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        apply(model, variables, method="features"), x if pool_norm else norm(x), rtol=1e-3, atol=1e-4
    )
    head = variables["params"]["head"]
    np.testing.assert_allclose(apply(model, variables), expected @ head["kernel"] + head["bias"], rtol=1e-3, atol=1e-4)
    without = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "head"}}
    embedded = apply(tiny(pool_norm=pool_norm, num_classes=0), without)
    np.testing.assert_allclose(embedded, expected, rtol=1e-3, atol=1e-4)


def test_the_head_starts_at_zero_and_branches_at_the_layer_scale():
    initial = jax.jit(tiny(layer_scale=0.0, head_bias=-3.0).init_with_output, compiler_options=QUICKLY)
    logits, variables = initial(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(logits, np.full((2, 5), -3.0))
    first = apply(tiny(layer_scale=0.0), variables, method="first_map")
    (after,) = apply(tiny(layer_scale=0.0), variables, method="intermediates", layers=(0,))
    np.testing.assert_array_equal(after, first)
    kernel = variables["params"]["encoder"]["stage_0"]["block_0"]["conv"]["kernel"]
    assert kernel.shape == (7, 7, 1, 4)
    np.testing.assert_allclose(np.std(kernel), 0.02, rtol=0.2)


def trained(variables, **options):
    return output_and_gradients(tiny(dropout=0.3, drop_path=0.5, **options), variables, IMAGES)


@pytest.fixture(scope="module")
def loop(variables):
    return trained(variables)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_nothing(variables, loop, remat):
    actual = trained(variables, remat=remat)
    assert_trees_close(actual, loop, 1e-5)


def test_dropping_needs_a_key_in_training_alone(variables, loop):
    np.testing.assert_array_equal(apply(tiny(), variables, train=True), apply(tiny(), variables))
    np.testing.assert_array_equal(apply(tiny(drop_path=0.5), variables), apply(tiny(), variables))
    with pytest.raises(Exception, match="dropout"):
        apply(tiny(drop_path=0.5), variables, train=True)
    assert np.abs(loop[0][0] - apply(tiny(), variables)).max() > 1e-2


def test_every_block_draws_numbers_of_its_own(variables):
    """Of the second stage's two blocks an example may lose neither, one, the other or both."""
    model, images = tiny(drop_path=0.6), np.repeat(IMAGES[:1], 32, 0)
    rngs = {"dropout": jax.random.key(1)}
    maps = apply(model, variables, images, train=True, rngs=rngs, method="intermediates", layers=(0, 1))
    np.testing.assert_array_equal(maps[0], np.repeat(maps[0][:1], len(images), 0))  # rate 0 at the first block
    assert len({one.tobytes() for one in np.asarray(maps[1])}) == 4


def test_bfloat16(variables):
    model = tiny(dtype="bfloat16")
    (logits, _), gradients = trained(variables, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    exact = apply(tiny(), variables)
    np.testing.assert_allclose(apply(model, variables), exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"remat": "nonsense"}, "remat must be one of none, dots, full, not 'nonsense'"),
        ({"gelu": "nonsense"}, "gelu must be 'tanh' or 'exact', not 'nonsense'"),
        ({"kernel_size": 4}, "kernel_size must be odd and positive, not 4"),
        ({"patch_size": 0}, "patch_size must be at least 1, not 0"),
        ({"depths": (1, 2, 3)}, "must have a number for each stage"),
        ({"dropout": -0.1}, "dropout must be at least 0 and less than 1, not -0.1"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize("layer", [2, -3])
def test_an_unknown_stage_is_an_error(variables, layer):
    with pytest.raises(ValueError, match=f"no layer {layer} in a model of 2 stages"):
        jax.eval_shape(lambda v: tiny().apply(v, IMAGES, (0, layer), method="intermediates"), variables)
