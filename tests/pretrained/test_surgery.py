"""Weights for another head, another image size, other patches, another kind of pooling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from tests.pretrained.examples import FIELDS, small_weights
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.pretrained.surgery import Surgery, fit, resize_grid, resize_patches
from vit_jax.pretrained.weights import POSITIONS, parameter_shapes

AS_USUAL = Surgery()


def fitted(weights, size=(8, 8), model="vit", surgery=AS_USUAL, **fields):
    """Returns the parameters of another model taken from weights, and the report. Initial heads are zero, as a model
    makes them, everything else is 7, so that it can be told.
    """
    module = create_model(model, **{**FIELDS, **fields})

    def initial():
        shapes = parameter_shapes(module, size)
        return {name: np.full(shape, 0 if name.startswith("head") else 7, np.float32) for name, shape in shapes.items()}

    params, report = fit(weights, module, size, initial, surgery)
    assert {name: array.shape for name, array in params.items()} == parameter_shapes(module, size)
    return params, report


def refused(*arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        fitted(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def grid_of(rows, columns, width=6) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, columns, width)).astype(np.float32)


class TestGrid:
    @pytest.mark.parametrize(
        ("old", "new"), [((14, 14), (24, 24)), ((14, 14), (20, 31)), ((7, 4), (3, 9)), ((2, 2), (5, 1))]
    )
    def test_linear_is_scipys_zoom(self, old, new):
        """By which Google's loader resizes: corners stay corners."""
        grid = grid_of(*old)
        expected = scipy.ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
        found = resize_grid(grid, new, "linear")
        assert found.shape == (*new, 6)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_linear_keeps_corners_and_ramps(self):
        grid = grid_of(4, 6)
        found = resize_grid(grid, (9, 5), "linear")
        np.testing.assert_array_equal(found[[0, 0, -1, -1], [0, -1, 0, -1]], grid[[0, 0, -1, -1], [0, -1, 0, -1]])
        ramp = np.linspace(0, 1, 6, dtype=np.float32)[None, :, None] + np.zeros((4, 1, 1), np.float32)
        np.testing.assert_allclose(resize_grid(ramp, (4, 11), "linear")[2, :, 0], np.linspace(0, 1, 11), atol=1e-6)

    def test_bicubic_is_antialiased(self):
        grid = grid_of(14, 14)
        found = resize_grid(grid, (7, 9), "bicubic")
        expected = jax.image.resize(grid, (7, 9, 6), "bicubic", antialias=True)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.abs(found - jax.image.resize(grid, (7, 9, 6), "bicubic", antialias=False)).max() > 0.1

    @pytest.mark.parametrize("method", ["linear", "bicubic"])
    def test_the_same_grid_is_left_alone(self, method):
        grid = grid_of(3, 5)
        assert resize_grid(grid, (3, 5), method) is grid

    def test_one_row_or_one_patch(self):
        np.testing.assert_array_equal(resize_grid(grid_of(1, 1), (3, 2), "linear"), np.tile(grid_of(1, 1), (3, 2, 1)))
        assert resize_grid(grid_of(1, 5), (4, 3), "linear").shape == (4, 3, 6)


class TestPositions:
    def test_an_equal_image_changes_nothing(self):
        weights = small_weights()
        params, report = fitted(weights)
        assert all(params[name] is weights.params[name] for name in weights.params)
        assert report.lines() == [f"weights of small: {report.count:,} numbers in {len(params)} arrays loaded"]
        assert report.count == sum(array.size for array in weights.params.values())

    @pytest.mark.parametrize(("method", "named"), [(None, "linear"), ("linear", "linear"), ("bicubic", "bicubic")])
    def test_another_image_size(self, method, named):
        weights = small_weights(size=(16, 16))
        params, report = fitted(weights, (20, 28), surgery=Surgery(positions=method))
        old, new = weights.params[POSITIONS][0], params[POSITIONS][0]
        assert new.shape == (1 + 5 * 7, 16)
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_array_equal(new[1:].reshape(5, 7, 16), resize_grid(old[1:].reshape(4, 4, 16), (5, 7), named))
        assert report.resized == [f"{POSITIONS} 4x4 -> 5x7 ({named})"]
        assert POSITIONS not in report.loaded

    def test_what_suits_the_weights(self):
        weights = dataclasses.replace(small_weights(size=(16, 16)), position_resize="bicubic")
        assert fitted(weights, (8, 8))[1].resized == [f"{POSITIONS} 4x4 -> 2x2 (bicubic)"]

    def test_as_many_patches_in_another_shape(self):
        weights = small_weights(size=(16, 24))
        params, report = fitted(weights, (24, 16))
        assert report.resized == [f"{POSITIONS} 4x6 -> 6x4 (linear)"]
        grid = weights.params[POSITIONS][0, 1:].reshape(4, 6, 16)
        np.testing.assert_array_equal(params[POSITIONS][0, 1:].reshape(6, 4, 16), resize_grid(grid, (6, 4), "linear"))

    def test_a_grid_that_nothing_tells(self):
        weights = dataclasses.replace(small_weights(size=(8, 12)), image_size=None)
        assert "which grid its 6 positions are; give image_size" in refused(weights, (16, 16))
        square = dataclasses.replace(small_weights(size=(16, 16)), image_size=None)
        assert fitted(square, (8, 8))[1].resized == [f"{POSITIONS} 4x4 -> 2x2 (linear)"]

    @pytest.mark.parametrize(
        ("theirs", "ours", "rows"),
        [({}, {"pool": "gap"}, "1 -> 0"), ({"pool": "gap"}, {}, "0 -> 1"), ({"cls_position": False}, {}, "0 -> 1")],
    )
    def test_class_rows_come_and_go(self, theirs, ours, rows):
        weights = small_weights(**theirs)
        params, report = fitted(weights, **ours)
        assert report.resized == [f"{POSITIONS} 2x2 -> 2x2 (linear), {rows} class rows"]
        np.testing.assert_array_equal(params[POSITIONS][0, -4:], weights.params[POSITIONS][0, -4:])
        assert not params[POSITIONS][0, :-4].any()

    def test_an_unknown_method(self):
        with pytest.raises(UserError, match="linear or bicubic, not 'nearest'"):
            Surgery(positions="nearest")


class TestHead:
    def test_another_number_of_classes(self):
        weights = small_weights()
        params, report = fitted(weights, num_classes=3)
        assert not params["head/kernel"].any()
        assert not params["head/bias"].any()
        assert report.initialised == ["head (3 classes, not 5)"]
        assert report.unused == report.initialised
        assert len(report.loaded) == len(weights.params) - 2

    def test_the_same_number_keeps_it_unless_a_new_one_is_asked_for(self):
        weights = small_weights()
        assert fitted(weights)[0]["head/kernel"] is weights.params["head/kernel"]
        params, report = fitted(weights, surgery=Surgery(new_head=True))
        assert not params["head/kernel"].any()
        assert report.initialised == ["head (a new head is asked for)"]

    def test_no_head_on_either_side(self):
        params, report = fitted(small_weights(num_classes=0))
        assert not params["head/kernel"].any()
        assert report.initialised == ["head"]
        params, report = fitted(small_weights(), num_classes=0)
        assert "head/kernel" not in params
        assert (report.initialised, report.unused) == ([], ["head"])

    def test_without_the_pre_logits_layer_the_head_is_new(self):
        params, report = fitted(small_weights(pre_logits=16))
        assert not params["head/kernel"].any()
        assert report.initialised == ["head (the pre-logits layer differs)"]
        assert report.unused == [f"{name} (the pre-logits layer differs)" for name in ("head", "pre_logits")]

    @pytest.mark.parametrize("theirs", [None, 12])
    def test_another_pre_logits_layer_is_new_with_the_head(self, theirs):
        params, report = fitted(small_weights(pre_logits=theirs), pre_logits=16)
        assert (params["pre_logits/kernel"] == 7).all()
        assert not params["head/kernel"].any()
        assert report.initialised == [f"{name} (the pre-logits layer differs)" for name in ("head", "pre_logits")]
        assert report.unused == (report.initialised if theirs else report.initialised[:1])

    def test_the_pre_logits_layer_is_kept_for_other_classes(self):
        weights = small_weights(pre_logits=16)
        params, report = fitted(weights, pre_logits=16, num_classes=3)
        assert params["pre_logits/kernel"] is weights.params["pre_logits/kernel"]
        assert report.initialised == ["head (3 classes, not 5)"]


class TestPatches:
    @pytest.mark.parametrize(
        ("fields", "positions"),
        [
            ({"patch_embed": "overlapping", "patch_stride": (2, 2)}, "2x2 -> 4x4"),
            ({"patch_embed": "flexible", "patch_sizes": (2, 4), "patch_size": (2, 2)}, None),
            ({"patch_embed": "adaptive", "patch_scales": 2}, None),
            ({"patch_embed": "positional"}, None),
        ],
        ids=lambda value: str(value) if value is None else value if isinstance(value, str) else value["patch_embed"],
    )
    def test_plain_patches_go_into_other_embeddings(self, fields, positions):
        """The kernel as it is, positions for their grid; what the plain embedding has not starts as it does."""
        weights = small_weights()
        params, report = fitted(weights, **fields)
        np.testing.assert_array_equal(params["patch_embed/kernel"], weights.params["patch_embed/kernel"])
        assert report.resized == ([f"{POSITIONS} {positions} (linear)"] if positions else [])
        new = {"adaptive": ["patch_embed/scale"], "positional": ["conditional_position/conv/bias"]}
        assert set(new.get(fields["patch_embed"], [])) <= set(report.initialised)
        assert len(report.initialised) == {"adaptive": 1, "positional": 2}.get(fields["patch_embed"], 0)

    def test_plain_patches_are_resized_to_the_underlying_size(self):
        weights, fields = small_weights(), {"patch_embed": "flexible", "patch_sizes": (2, 8), "patch_size": (2, 2)}
        assert "surgery.patches=True" in refused(weights, **fields)
        params, report = fitted(weights, surgery=Surgery(patches=True), **fields)
        expected = resize_patches(weights.params["patch_embed/kernel"], (8, 8))
        np.testing.assert_array_equal(params["patch_embed/kernel"], expected)
        assert f"{POSITIONS} 2x2 -> 1x1 (linear)" in report.resized

    def test_the_product_with_an_upsampled_patch_is_the_old_one(self):
        generator = np.random.default_rng(0)
        kernel = generator.normal(size=(4, 4, 3, 5)).astype(np.float32)
        patches = generator.normal(size=(6, 4, 4, 3)).astype(np.float32)
        larger = jax.image.resize(patches, (6, 8, 8, 3), "linear", antialias=False)
        expected = np.einsum("nhwc,hwco->no", patches, kernel)
        found = np.einsum("nhwc,hwco->no", larger, resize_patches(kernel, (8, 8)))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        naive = jax.image.resize(kernel, (8, 8, 3, 5), "linear")
        assert np.abs(np.einsum("nhwc,hwco->no", larger, naive) - expected).max() > 1

    def test_only_when_asked_for(self):
        weights = small_weights()
        message = refused(weights, (16, 16), patch_size=(8, 8))
        assert "patches of 4x4, the model of 8x8; surgery.patches=True" in message
        params, report = fitted(weights, (16, 16), patch_size=(8, 8), surgery=Surgery(patches=True))
        assert report.resized == ["patch_embed/kernel 4x4 -> 8x8 (pseudo-inverse)"]
        expected = resize_patches(weights.params["patch_embed/kernel"], (8, 8))
        np.testing.assert_array_equal(params["patch_embed/kernel"], expected)
        assert params[POSITIONS] is weights.params[POSITIONS]

    def test_an_upsampled_image_is_seen_alike(self):
        """With every patch of a model enlarged on its own, the embedded patches stay what they were."""
        weights = small_weights()
        params, _ = fitted(weights, (16, 16), patch_size=(8, 8), surgery=Surgery(patches=True))
        image = np.random.default_rng(1).normal(size=(8, 8, 3)).astype(np.float32)
        tiles = image.reshape(2, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 4, 3)
        tiles = np.asarray(jax.image.resize(tiles, (4, 8, 8, 3), "linear", antialias=False))
        larger = tiles.reshape(2, 2, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 16, 3)

        def embedded(kernel, image):
            step = kernel.shape[:2]
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                image[None], jnp.asarray(kernel), step, "VALID", dimension_numbers=dimensions
            )

        before = embedded(weights.params["patch_embed/kernel"], image)
        np.testing.assert_allclose(
            embedded(params["patch_embed/kernel"], larger), before, atol=1e-5 * np.abs(before).max()
        )


class TestKinds:
    def test_a_distilled_model_of_a_vit(self):
        weights = small_weights()
        params, report = fitted(weights, model="vit_distilled")
        assert report.initialised == ["dist", "head_dist"]
        assert report.resized == [f"{POSITIONS} 2x2 -> 2x2 (linear), 1 -> 2 class rows"]
        assert params["head/kernel"] is weights.params["head/kernel"]
        assert (params["dist"] == 7).all()
        assert not params["head_dist/kernel"].any()
        old, new = weights.params[POSITIONS][0], params[POSITIONS][0]
        np.testing.assert_array_equal(new, np.stack([old[0], np.zeros(16, np.float32), *old[1:]]))

    def test_a_vit_of_a_distilled_model(self):
        weights = small_weights("vit_distilled")
        params, report = fitted(weights)
        assert report.unused == ["dist", "head_dist"]
        assert report.initialised == []
        np.testing.assert_array_equal(params[POSITIONS], weights.params[POSITIONS][:, [0, 2, 3, 4, 5]])

    def test_a_vit_is_no_mixer_and_no_hybrid(self):
        mixer = {"tokens_mlp_dim": 8, "channels_mlp_dim": 24}
        module = create_model("mixer", num_classes=5, patch_size=(4, 4), width=16, depth=2, **mixer)
        for weights, target, kinds in (
            (small_weights(), module, "holds a VisionTransformer, but the model is a Mixer"),
            (small_weights("mixer"), small_weights().module, "holds a Mixer, but the model is a VisionTransformer"),
        ):
            with pytest.raises(UserError, match=kinds):
                fit(weights, target, (8, 8), dict)
        hybrid = {"stages": (), "stem_width": 32, "patch_size": (1, 1)}
        assert "patch_embed/kernel" in refused(small_weights(), (8, 8), model="hybrid", **hybrid)

    def test_another_width_is_refused_with_both_shapes(self):
        message = refused(small_weights(), width=32)
        assert "is of another model" in message
        assert "16" in message
        assert "32" in message

    def test_the_mixers_image_size_cannot_change(self):
        weights = small_weights("mixer")
        with pytest.raises(UserError, match="whose image size is fixed"):
            fit(weights, weights.module, (16, 16), dict)

    def test_another_depth_and_pooling_are_told(self):
        params, report = fitted(small_weights(), depth=3, registers=2)
        assert "registers" in report.initialised
        assert any(line.startswith("encoder/block_2/") for line in report.initialised)
        assert (params["encoder/block_2/norm_0/scale"] == 7).all()
        _, report = fitted(small_weights(), depth=1)
        assert all("encoder/block_1/" in line for line in report.unused)
        assert len(report.unused) == 16


def test_the_report_names_everything():
    weights = dataclasses.replace(small_weights(size=(16, 16)), unused=("mask_token (why)",), notes=("assumed so",))
    params, report = fitted(weights, registers=1, num_classes=3)
    lines = report.lines()
    assert lines[0].startswith("weights of small: ")
    assert f"{sum(params[name].size for name in report.loaded):,} numbers in {len(report.loaded)} arrays" in lines[0]
    assert lines[1:] == [
        f"  resized: {POSITIONS} 4x4 -> 2x2 (linear)",
        "  initialised: registers; head (3 classes, not 5)",
        "  unused: head (3 classes, not 5); mask_token (why)",
        "  note: assumed so",
    ]
    named = {*report.loaded, POSITIONS, "head/kernel", "head/bias", "registers"}
    assert named == params.keys()
