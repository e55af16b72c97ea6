import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import staged
from tests.models.staged import QUICKLY, assert_trees_close, output_and_gradients
from vit_jax.explanation.attention import attention_maps
from vit_jax.models import create_model
from vit_jax.models.swin import PatchMerging, SwinTransformer

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 20, 3)).astype(np.float32)
SIZES = {
    "num_classes": 5,
    "patch_size": (2, 2),
    "depths": (2, 1),
    "widths": (6, 8),
    "heads": (1, 2),
    "window_size": 3,
    "mlp_ratio": 2.0,
}


def tiny(**fields):
    return SwinTransformer(**{**SIZES, **fields})


def apply(model, variables, images=IMAGES, **named):
    return staged.apply(model, variables, images, **named)


@pytest.fixture(scope="module")
def of_version(random_params):
    return {version: {"params": random_params(tiny(version=version), IMAGES)} for version in (1, 2)}


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("swin_tiny", 224, 28_288_354),
        ("swin_small", 224, 49_606_258),
        ("swin_base", 224, 87_768_224),
        ("swin_large", 224, 196_532_476),
        ("swinv2_tiny", 256, 28_347_154),
        ("swinv2_small", 256, 49_728_418),
        ("swinv2_base", 256, 87_918_816),
        ("swin_cifar", 32, None),
    ],
)
def test_published_sizes(name, size, count):
    params = jax.eval_shape(create_model(name).init, jax.random.key(0), np.ones((1, size, size, 3), np.float32))
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == count if count else 2_500_000 < found < 3_000_000


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (6, 22), (32, 28)])
def test_maps_of_any_image(size, version):
    """Odd sides are padded, and no window is larger than the map."""
    model, images = tiny(version=version), jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, (0, -1), method="intermediates"), variables, images)
    sides = [side // 2 for side in size]
    assert [one.shape for one in maps] == [(2, *sides, 6), (2, *(-(-side // 2) for side in sides), 8)]
    if version == 1:
        tables = [variables["params"]["encoder"][f"stage_{i}"]["block_0"]["relative_bias"]["table"] for i in (0, 1)]
        for table, one in zip(tables, maps, strict=True):
            assert table.shape[:2] == tuple(2 * min(side, 3) - 1 for side in one.shape[1:3])


def test_parameters_of_version_2_are_those_of_every_image(of_version):
    images = np.random.default_rng(1).normal(size=(1, 4, 26, 3)).astype(np.float32)
    assert np.isfinite(apply(tiny(version=2), of_version[2], images)).all()
    with pytest.raises(ValueError, match="made for a grid of 3x3, but the image needs 2x3"):
        jax.eval_shape(lambda v: tiny().apply(v, images), of_version[1])


@pytest.mark.parametrize("version", [1, 2])
def test_images_that_the_patch_does_not_divide_are_padded_where_hugging_face_does_it(of_version, version):
    padded = np.pad(IMAGES[:, :11, :19], ((0, 0), (0, 1), (0, 1), (0, 0)))
    model = tiny(version=version, square_windows=True)
    found = apply(model, of_version[version], IMAGES[:, :11, :19])
    np.testing.assert_array_equal(found, apply(model, of_version[version], padded))
    assert model.maps_sides((11, 19)) == [(6, 10), (3, 5)]
    with pytest.raises(ValueError, match="image height 11 is not a multiple of patch height 2"):
        apply(tiny(version=version), of_version[version], IMAGES[:, :11, :19])


def test_what_decides_about_windows_of_each_stage():
    """Maps of 6x10 and 3x5 places: Hugging Face has shifts on both sides or none, and may go by other rows."""
    size, depths = (12, 20), (2, 2)
    assert tiny(depths=depths).windows(size) == [((3, 3), (1, 1), False), ((3, 3), (0, 1), False)]
    square = {"depths": depths, "square_windows": True}
    assert tiny(**square).windows(size) == [((3, 3), (1, 1), True), ((3, 3), (0, 0), False)]
    assert tiny(**square).windows((12, 24)) == [((3, 3), (1, 1), False), ((3, 3), (0, 0), False)]
    assert tiny(**square, deciding_rows=4).windows(size) == [((3, 3), (1, 1), True), ((3, 3), (1, 1), True)]
    assert tiny(**square, deciding_rows=(3, 2)).windows(size) == [((3, 3), (0, 0), False), ((2, 2), (0, 0), False)]


@pytest.mark.parametrize("rows", [4, (9, 1)])
def test_deciding_rows_reach_the_blocks(of_version, rows):
    """Version 2's bias depends on the windows too; the second stage's maps have 3 rows and one block."""
    model = tiny(version=2, square_windows=True, deciding_rows=rows)
    maps = attention_maps(model, of_version[2], IMAGES)
    windows = [sizes for sizes, _, _ in model.windows((12, 20))]
    assert windows == [(3, 3), (3, 3) if rows == 4 else (1, 1)]
    assert [one.shape[-1] for one in maps] == [9, 9, windows[1][0] ** 2]


@pytest.mark.parametrize("version", [1, 2])
def test_patches_are_merged_in_columns(version):
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    model = PatchMerging(4, version)
    variables = model.init(jax.random.key(0), x)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    joined = np.concatenate([padded[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    kernel = variables["params"]["reduction"]["kernel"]
    expected = norm(joined) @ kernel if version == 1 else norm(joined @ kernel)
    np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-3, atol=1e-4)


def test_blocks_of_version_2_start_as_the_identity():
    model = tiny(version=2, head_bias=-3.0)
    logits, variables = jax.jit(model.init_with_output, compiler_options=QUICKLY)(jax.random.key(0), IMAGES)
    np.testing.assert_array_equal(logits, np.full((2, 5), -3.0))
    (after,) = apply(model, variables, method="intermediates", layers=(0,))
    np.testing.assert_array_equal(after, apply(model, variables, method="first_map"))


def test_embedding_is_the_mean_of_the_features(of_version):
    features, embedded = (apply(tiny(), of_version[1], method=name) for name in ("features", "embed"))
    assert features.shape == (2, 3, 5, 8)
    np.testing.assert_allclose(embedded, features.mean((1, 2)), rtol=1e-4, atol=1e-5)
    head = of_version[1]["params"]["head"]
    np.testing.assert_allclose(apply(tiny(), of_version[1]), embedded @ head["kernel"] + head["bias"], atol=1e-4)
    without = {"params": {name: leaf for name, leaf in of_version[1]["params"].items() if name != "head"}}
    np.testing.assert_array_equal(apply(tiny(num_classes=0), without), embedded)


def test_the_second_block_sees_across_windows(of_version):
    """In the first block a window's tokens see each other alone; the shifted one that follows joins neighbours."""
    changed = IMAGES.copy()
    changed[0, 0, 0] += 3.0

    def reached(model, params):
        maps = [apply(model, {"params": params}, x, method="intermediates", layers=(0,))[0] for x in (IMAGES, changed)]
        return np.any(maps[0] != maps[1], axis=-1)[0]

    params = of_version[1]["params"]
    encoder = params["encoder"]
    one = {**params, "encoder": {**encoder, "stage_0": {"block_0": encoder["stage_0"]["block_0"]}}}
    first = reached(tiny(depths=(1, 1)), one)
    expected = np.zeros((6, 10), bool)
    expected[:3, :3] = True
    np.testing.assert_array_equal(first, expected)
    both = reached(tiny(), params)
    assert both.sum() > first.sum()


def test_attention_of_every_window_can_be_shown(of_version):
    maps = attention_maps(tiny(), of_version[1], IMAGES)
    assert [one.shape for one in maps] == [(2 * 8, 1, 9, 9), (2 * 8, 1, 9, 9), (2 * 2, 2, 9, 9)]
    for one in maps:
        np.testing.assert_allclose(one.sum(-1), 1.0, rtol=1e-5)


def trained(version, variables, **options):
    return output_and_gradients(tiny(version=version, dropout=0.3, drop_path=0.5, **options), variables, IMAGES)


@pytest.mark.parametrize(("version", "remat"), [(1, "dots"), (2, "full")])
def test_remat_changes_nothing(of_version, version, remat):
    expected = trained(version, of_version[version])
    actual = trained(version, of_version[version], remat=remat)
    assert_trees_close(actual, expected, 1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_bfloat16(of_version, version):
    variables = of_version[version]
    logits, gradients = trained(version, variables, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    exact = apply(tiny(version=version), variables)
    found = apply(tiny(version=version, dtype="bfloat16"), variables)
    np.testing.assert_allclose(found, exact, atol=0.06 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 3}, "version must be 1 or 2, not 3"),
        ({"heads": (1,)}, r"heads \(1,\) must have a positive number for each of 2 stages"),
        ({"heads": (4, 2)}, "width 6 is not a multiple of 4 heads"),
        ({"window_size": 0}, "window_size must be one number, or one for each of 2 stages, from 1 up, not 0"),
        ({"window_size": (3, 3, 3)}, "window_size must be one number, or one for each of 2 stages"),
        ({"trained_window": -1}, "trained_window must be one number"),
        ({"deciding_rows": (3,)}, "deciding_rows must be one number, or one for each of 2 stages, from 0 up"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0 must be positive"),
        ({"patch_size": (8, 8)}, "image height 12 is not a multiple of patch height 8"),
        ({"gelu": "none"}, "gelu must be"),
        ({"widths": (6,)}, "must have a number for each stage"),
        ({"remat": "some"}, "remat must be one of"),
    ],
)
def test_what_does_not_fit_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny(**fields).init, jax.random.key(0), IMAGES)
