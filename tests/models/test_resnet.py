import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import staged
from tests.models.staged import QUICKLY, assert_trees_close, output_and_gradients, random_variables
from vit_jax.models import create_model
from vit_jax.models.resnet import ResNet

IMAGES = np.random.default_rng(0).normal(size=(2, 20, 13, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "depths": (1, 2), "widths": (4, 6), "stem_width": 8}


def tiny(**fields):
    return ResNet(**{**SIZES, **fields})


def apply(model, variables, images=IMAGES, **named):
    return staged.apply(model, variables, images, **named)


@pytest.fixture(scope="module")
def variables():
    return random_variables(tiny(), IMAGES)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet18_cifar", 11_173_962),
    ],
)
def test_published_sizes(name, count):
    variables = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, 64, 64, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (20, 13), (64, 32)])
def test_maps_of_any_image(size, bottleneck):
    """One place for every 4 x 4 pixels after the stem, rounded up; half as many after the second stage."""
    model, images = tiny(bottleneck=bottleneck), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, (0, -1), method="intermediates"), variables, images)
    places = [tuple(-(-side // stride) for side in size) for stride in (4, 8)]
    assert [one.shape for one in maps] == [(2, *places[i], width << 2 * bottleneck) for i, width in enumerate((4, 6))]


def test_the_stem_for_small_images_keeps_their_size():
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    model = create_model("resnet18_cifar")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    first = jax.eval_shape(lambda v, x: model.apply(v, x, method="first_map"), variables, images)
    last = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    assert (first.shape, last.shape) == ((2, 32, 32, 64), (2, 4, 4, 512))


def test_logits_are_of_the_mean_of_the_last_map(variables):
    features = apply(tiny(), variables, method="features")
    embedded = apply(tiny(), variables, method="embed")
    np.testing.assert_allclose(embedded, features.mean((1, 2)), rtol=1e-5, atol=1e-6)
    head = variables["params"]["head"]
    expected = embedded @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(apply(tiny(), variables), expected, rtol=1e-4, atol=1e-5)
    without = {**variables, "params": {name: leaf for name, leaf in variables["params"].items() if name != "head"}}
    np.testing.assert_allclose(apply(tiny(num_classes=0), without), embedded, rtol=1e-5, atol=1e-6)
    (last,) = apply(tiny(), variables, method="intermediates", layers=(-1,))
    np.testing.assert_array_equal(last, features)


def test_blocks_start_as_shortcuts_and_the_head_at_zero():
    model = tiny(depths=(2,), widths=(8,), bottleneck=False, head_bias=-3.0)
    logits, variables = jax.jit(model.init_with_output, compiler_options=QUICKLY)(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(logits, np.full((2, 5), -3.0))
    first = apply(model, variables, method="first_map")
    np.testing.assert_array_equal(apply(model, variables, method="features"), first)


def test_training_normalises_by_the_batch_and_moves_the_running_statistics(variables):
    model = tiny()
    _, updated = apply(model, variables, train=True, mutable=["batch_stats"])
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    x = jax.lax.conv_general_dilated(
        IMAGES, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before, after = (stats["batch_stats"]["stem"]["norm"] for stats in (variables, updated))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * x.var((0, 1, 2)), rtol=1e-4, atol=1e-5)
    logits = apply(model, variables, train=True, mutable=["batch_stats"])[0]
    assert np.abs(logits - apply(model, variables)).max() > 1e-2


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
    np.testing.assert_array_equal(apply(tiny(drop_path=0.5), variables), apply(tiny(), variables))
    with pytest.raises(Exception, match="dropout"):
        apply(tiny(drop_path=0.5), variables, train=True, mutable=["batch_stats"])
    assert np.abs(loop[0][0] - apply(tiny(), variables, train=True, mutable=["batch_stats"])[0]).max() > 1e-2


def test_bfloat16(variables):
    model = tiny(dtype="bfloat16")
    (logits, _), gradients = trained(variables, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    exact = apply(tiny(), variables)
    np.testing.assert_allclose(apply(model, variables), exact, atol=0.05 * np.abs(exact).max())
    assert jax.eval_shape(lambda v: model.apply(v, IMAGES, method="features"), variables).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"remat": "nonsense"}, "remat must be one of none, dots, full, not 'nonsense'"),
        ({"depths": (1,)}, r"depths \(1,\) and widths \(4, 6\) must have a number for each stage"),
        ({"depths": (), "widths": ()}, "must have a number for each stage"),
        ({"depths": (1, 0)}, r"depths \(1, 0\) must be at least 1 each"),
        ({"widths": (4, -1)}, r"widths \(4, -1\) must be at least 1 each"),
        ({"stem_width": 0}, "stem_width must be at least 1, not 0"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and less than 1, not 1.0"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize("layer", [2, -3])
def test_an_unknown_stage_is_an_error(variables, layer):
    with pytest.raises(ValueError, match=f"no layer {layer} in a model of 2 stages"):
        jax.eval_shape(lambda v: tiny().apply(v, IMAGES, (0, layer), method="intermediates"), variables)
