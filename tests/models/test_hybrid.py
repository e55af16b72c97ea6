import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layers.windows import group_norm, same_windows, standardised_conv
from vit_jax.models import create_model
from vit_jax.models.hybrid import HybridVisionTransformer
from vit_jax.models.resnet_backbone import ResNetBackbone, Root, Unit

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
SIZES = {"num_classes": 5, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12, "stages": (1, 1), "stem_width": 32}


def tiny(**fields):
    return HybridVisionTransformer(**{**SIZES, **fields})


@functools.partial(jax.jit, static_argnames=("model", "method", "train", "layers"))
def apply(variables, *arguments, model, method="__call__", **named):
    """`model.apply`, compiled once for the same model, whichever test asks."""
    return model.apply(variables, *arguments, method=method, **named)


@pytest.fixture(scope="module")
def variables(random_params):
    return {"params": random_params(tiny(), IMAGES)}


@pytest.mark.parametrize(
    ("name", "count", "stride"),
    [
        ("r_ti16", 6_337_704, 32),
        ("r26_s32", 36_431_912, 32),
        ("r50_b16", 98_659_112, 16),
        ("r50_l32", 328_994_856, 32),
    ],
)
def test_published_sizes(name, count, stride):
    model = create_model(name)
    params = jax.eval_shape(model.init, jax.random.key(0), np.ones((1, 224, 224, 3), np.float32))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert model.stride == (stride, stride)
    assert params["position_embed"]["embedding"].shape[1] == 1 + (224 // stride) ** 2


def plain_conv_and_norm(x, params, suffix, stride=1):
    norm = params[f"norm_{suffix}"]
    return group_norm(standardised_conv(x, params[f"conv_{suffix}"]["kernel"], stride), norm["scale"], norm["bias"])


def widened(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (15, 9)])
def test_root_is_convolution_norm_relu_and_pooling(random_params, size):
    """What pads the pooling lies below every entry, also where it pads unevenly."""
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    params = random_params(Root(32), images)
    wide = widened(params)
    x = standardised_conv(images.astype(np.float64), wide["conv"]["kernel"], 2)
    x = np.maximum(group_norm(x, wide["norm"]["scale"], wide["norm"]["bias"]), 0)
    expected = same_windows(x, (3, 3), 2, -np.inf).max((3, 4))
    assert expected.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 32)
    np.testing.assert_allclose(jax.jit(Root(32).apply)({"params": params}, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "stride"), [(32, 1), (128, 1), (128, 2), (64, 2)])
def test_unit_is_a_bottleneck_that_is_projected_where_channels_or_stride_change(random_params, inputs, stride):
    x = np.random.default_rng(1).normal(size=(2, 5, 6, inputs)).astype(np.float32)
    unit = Unit(32, stride)
    params = random_params(unit, x)
    assert ("conv_proj" in params) == (inputs != 128 or stride != 1)
    wide, branch, shortcut = widened(params), x.astype(np.float64), x.astype(np.float64)
    branch = np.maximum(plain_conv_and_norm(branch, wide, "0"), 0)
    branch = np.maximum(plain_conv_and_norm(branch, wide, "1", stride), 0)
    branch = plain_conv_and_norm(branch, wide, "2")
    if "conv_proj" in params:
        shortcut = plain_conv_and_norm(shortcut, wide, "proj", stride)
    expected = np.maximum(shortcut + branch, 0)
    np.testing.assert_allclose(jax.jit(unit.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_unit_starts_as_a_shortcut():
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 128)).astype(np.float32)
    y, _ = jax.jit(Unit(32).init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_stages_double_the_channels_and_all_but_the_first_halve_the_sides():
    backbone = ResNetBackbone((1, 2, 1), 64)
    map_, variables = jax.eval_shape(backbone.init_with_output, jax.random.key(0), np.ones((1, 65, 32, 3)))
    assert map_.shape == (1, 5, 2, 4 * 4 * 64)
    params = variables["params"]
    assert {name: list(stage) for name, stage in params.items() if name != "root"} == {
        "stage_0": ["unit_0"],
        "stage_1": ["unit_0", "unit_1"],
        "stage_2": ["unit_0"],
    }
    assert list(params["root"]) == ["conv", "norm"]
    assert [params[f"stage_{i}"]["unit_0"]["conv_1"]["kernel"].shape[-1] for i in range(3)] == [64, 128, 256]
    assert params["stage_1"]["unit_0"]["conv_proj"]["kernel"].shape == (1, 1, 256, 512)
    assert "conv_proj" not in params["stage_1"]["unit_1"]


@pytest.mark.parametrize(
    ("fields", "size", "grid"),
    [
        ({}, (16, 16), (2, 2)),
        ({}, (17, 33), (3, 5)),
        ({"stages": (1,)}, (16, 8), (4, 2)),
        ({"stages": (), "patch_size": (2, 2)}, (16, 31), (2, 4)),
        ({"patch_size": (2, 1)}, (32, 16), (2, 2)),
    ],
)
def test_tokens_are_the_places_of_the_feature_map(fields, size, grid):
    """Whatever the image's size, the grid told is the grid embedded."""
    model = tiny(pool="gap", **fields)
    images = np.ones((1, *size, 3), np.float32)
    features, variables = jax.eval_shape(
        lambda key: model.init_with_output(key, images, method="features"), jax.random.key(0)
    )
    assert features.shape == (1, grid[0] * grid[1], 8)
    told = []
    jax.eval_shape(lambda v: told.append(model.apply(v, images, method="patches")[1]), variables)
    assert told == [grid]
    assert all(-(-pixels // stride) == n for pixels, stride, n in zip(size, model.stride, grid, strict=True))


def test_patches_embed_the_backbones_map(variables):
    patches, grid = jax.jit(lambda v: tiny().apply(v, IMAGES, method="patches"))(variables)
    params = variables["params"]
    map_ = jax.jit(ResNetBackbone((1, 1), 32).apply)({"params": params["backbone"]}, IMAGES)
    expected = map_.reshape(2, 4, -1) @ params["patch_embed"]["kernel"][0, 0] + params["patch_embed"]["bias"]
    assert tuple(map(int, grid)) == (2, 2)
    np.testing.assert_allclose(patches, expected, rtol=1e-4, atol=1e-4)


def test_an_image_is_classified_alone(variables):
    """The logits of a row do not depend on the other rows, and they do on its own pixels."""
    together = apply(variables, IMAGES, model=tiny())
    alone = apply(variables, np.stack([IMAGES[0], IMAGES[0] ** 2]), model=tiny())
    np.testing.assert_allclose(alone[0], together[0], rtol=1e-4, atol=1e-4 * np.abs(together).max())
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_intermediates_end_where_features_are_normed(variables):
    last, first = apply(variables, IMAGES, layers=(-1, 0), model=tiny(), method="intermediates")
    normed = tiny().apply(variables, last, method=lambda model, tokens: model.norm(tokens))
    features = apply(variables, IMAGES, model=tiny(), method="features")
    assert features.shape == first.shape == (2, 5, 8)
    np.testing.assert_allclose(normed, features, rtol=1e-5, atol=1e-5)
    assert np.abs(first - last).max() > 1e-2


@pytest.mark.parametrize("options", [{"scan_layers": True}, {"scan_layers": True, "remat": "full"}, {"remat": "dots"}])
def test_scan_and_remat_change_nothing(variables, options):
    """The generator is one that compiles fast; dropout and drop path draw the same numbers."""
    fields = {"dropout": 0.3, "drop_path": 0.3}
    rngs = {"dropout": jax.random.key(0, impl="unsafe_rbg")}
    loop = apply(variables, IMAGES, model=tiny(**fields), train=True, rngs=rngs)
    other = apply(variables, IMAGES, model=tiny(**fields, **options), train=True, rngs=rngs)
    assert np.abs(loop - apply(variables, IMAGES, model=tiny())).max() > 1e-2
    np.testing.assert_allclose(loop, other, rtol=1e-6, atol=1e-6 * np.abs(loop).max())


def test_gradients_reach_every_parameter_of_the_backbone(variables):
    """No layer of the ResNet is left out."""
    gradients = jax.jit(jax.grad(lambda v: (apply(v, IMAGES, model=tiny()) ** 2).sum()))(variables)
    for leaf in jax.tree.leaves(gradients["params"]["backbone"]):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_bfloat16_compute_keeps_parameters_and_logits_in_float32(variables):
    model = tiny(dtype="bfloat16")
    tree = jax.eval_shape(model.init_with_output, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    map_ = jax.eval_shape(lambda v: model.apply(v, IMAGES, method=lambda model, x: model.backbone(x)), variables)
    assert map_.dtype == jnp.bfloat16
    exact = apply(variables, IMAGES, model=tiny())
    np.testing.assert_allclose(apply(variables, IMAGES, model=model), exact, atol=0.05 * np.abs(exact).max())


def test_param_dtype_reaches_every_parameter():
    params = jax.eval_shape(tiny(param_dtype="bfloat16").init, jax.random.key(0), IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        (
            {"patch_size": (2, 2)},
            (16, 24),
            r"image width 24 becomes 3 in the feature map, not a multiple.* width 2",
        ),
        ({"stages": (), "patch_size": (8, 8)}, (16, 32), r"image height 16 becomes 4 in the feature map.*height 8"),
        ({"stages": (1, 0)}, (16, 16), r"stages \(1, 0\) must hold at least 1 unit each"),
        ({"stem_width": 48}, (16, 16), r"stem_width 48 must be a positive multiple of 32"),
        ({"stem_width": 0}, (16, 16), r"stem_width 0 must be a positive multiple of 32"),
        ({"pool": "nonsense"}, (16, 16), r"pool must be one of .*, not 'nonsense'"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, size, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), np.ones((1, *size, 3), np.float32))
