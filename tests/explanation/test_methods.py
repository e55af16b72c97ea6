"""Heat maps of loaded models: what holds of all methods, and what cannot be asked for."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.explanation.examples import loaded, pictures
from vit_jax.errors import UserError
from vit_jax.explanation import heat_maps, on_pictures
from vit_jax.explanation.classes import class_number
from vit_jax.explanation.methods import METHODS
from vit_jax.explanation.observation import Observation
from vit_jax.explanation.readout import readout
from vit_jax.explanation.rollout import rollout
from vit_jax.inference.exported import ExportedModel
from vit_jax.inference.model import LoadedModel

GLOBAL = [
    ("vit", {}),
    ("vit", {"pool": "gap", "registers": 2}),
    ("vit", {"pool": "map"}),
    ("vit", {"pool": "cls_gap"}),
    ("vit_distilled", {}),
    ("beit", {}),
]


@pytest.mark.parametrize(("family", "fields"), GLOBAL)
def test_every_method_gives_a_number_for_each_patch(family, fields):
    model = loaded(family, **fields)
    for method in METHODS:
        found = heat_maps(model, pictures(model), method)
        assert (found.shape, found.dtype) == ((2, 2, 3), np.float32), method
        assert np.isfinite(found).all()
        assert (found >= 0).all(), method
        assert found.max() > 0, method


def without_positions(uniform=False) -> LoadedModel:
    """Returns a ViT that cannot tell places apart; with `uniform` its tokens attend to all alike."""
    model = loaded("vit", (12, 12), position="none", pool="gap")
    params = dict(model.weights.params)
    if uniform:
        params = {name: array * ("query" not in name) for name, array in params.items()}
    return LoadedModel(dataclasses.replace(model.weights, params=params))


@pytest.mark.parametrize("method", ["attention", "rollout", "flow"])
def test_uniform_attention_gives_a_uniform_map(method):
    model = without_positions(uniform=True)
    found = heat_maps(model, pictures(model), method)
    np.testing.assert_allclose(found, found[0, 0, 0], rtol=1e-5)
    if method != "flow":
        np.testing.assert_allclose(found, 1 / 9, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_shifted_by_one_patch_gives_a_shifted_map(method):
    model = without_positions()
    image = pictures(model)
    found = heat_maps(model, image, method, **({"classes": 1} if METHODS[method].of_class else {}))
    moved = np.roll(image, (4, 4), (1, 2))
    expected = np.roll(found, (1, 1), (1, 2))
    again = heat_maps(model, moved, method, **({"classes": 1} if METHODS[method].of_class else {}))
    np.testing.assert_allclose(again, expected, rtol=1e-3, atol=1e-6)
    assert np.abs(found - expected).max() > 1e-4 * np.abs(found).max()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_images_give_alone(method, monkeypatch):
    model = loaded("vit", pool="gap")
    image = pictures(model, 3)
    expected = heat_maps(model, image, method)
    monkeypatch.setattr(on_pictures, "BATCH", 2)
    np.testing.assert_allclose(heat_maps(model, image, method), expected, rtol=1e-4, atol=1e-6)


def observed(family, **fields):
    model = loaded(family, **fields)
    return Observation(model, model.preprocessing.normalised(pictures(model)))


@pytest.mark.parametrize(
    ("family", "fields", "expected"),
    [
        ("vit", {}, [1, 0, 0, 0, 0, 0, 0]),
        ("vit_distilled", {}, [0.5, 0.5, 0, 0, 0, 0, 0, 0]),
        ("vit", {"pool": "gap", "registers": 2}, [0, 0, *[1 / 6] * 6]),
        ("vit", {"pool": "cls_gap"}, [0.5, *[1 / 12] * 6]),
        ("beit", {}, [0, *[1 / 6] * 6]),
    ],
)
def test_what_the_model_reads(family, fields, expected):
    seen = observed(family, **fields)
    found = readout(seen.module, seen.layers, 2, len(expected))
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=1e-6)
    whole = np.einsum("bq,bqk->bk", found, np.asarray(rollout(seen.maps)[-1]))[:, -6:].reshape(2, 2, 3)
    model = loaded(family, **fields)
    np.testing.assert_allclose(heat_maps(model, pictures(model), "rollout"), whole, rtol=1e-5)


def test_rollout_with_attention_pooling_follows_the_probe():
    seen = observed("vit", pool="map")
    probe = seen.layers["map_pool"].weights[:, 0].mean(1)[:, 0]
    expected = np.einsum("bq,bqk->bk", probe, np.asarray(rollout(seen.maps)[-1])).reshape(2, 2, 3)
    model = loaded("vit", pool="map")
    np.testing.assert_allclose(heat_maps(model, pictures(model), "rollout"), expected, rtol=1e-5)


def test_attention_of_one_layer_and_head():
    seen, model = observed("vit"), loaded("vit")
    weights = seen.layers["block_0"].weights
    for layer in (0, "0", -2, "block_0"):
        found = heat_maps(model, pictures(model), "attention", layer=layer, head=1)
        np.testing.assert_allclose(found.reshape(2, 6), weights[:, 0, 1, 0, 1:], rtol=1e-6)
    mean = heat_maps(model, pictures(model), "attention", layer=0)
    np.testing.assert_allclose(mean.reshape(2, 6), weights[:, 0, :, 0, 1:].mean(1), rtol=1e-6)
    place = heat_maps(model, pictures(model), "attention", layer=0, place=(1, 1))
    np.testing.assert_allclose(place.reshape(2, 6), weights[:, 0, :, 5, 1:].mean(1), rtol=1e-6)


def test_attention_times_gradient_of_one_layer():
    seen, model = observed("vit"), loaded("vit")
    positive = np.maximum(seen.layers["block_0"].weights * seen.gradient_layers["block_0"].weights, 0)
    found = heat_maps(model, pictures(model), "attention_gradient", layer=0)
    np.testing.assert_allclose(found.reshape(2, 6), positive[:, 0, :, 0, 1:].mean(1), rtol=1e-5)
    swin = loaded("swin")
    assert heat_maps(swin, pictures(swin), "attention_gradient", 2).shape == (2, 3, 5)


def test_the_class_is_the_predicted_one_unless_it_is_chosen():
    model = loaded("vit")
    image = pictures(model)
    best = [int(i) for i in model.predict(image).argmax(1)]
    expected = heat_maps(model, image, "relevance", best)
    np.testing.assert_array_equal(heat_maps(model, image, "relevance"), expected)
    worst = [int(i) for i in model.predict(image).argmin(1)]
    assert np.abs(heat_maps(model, image, "relevance", worst) - expected).max() > 1e-3 * expected.max()


def test_jitted_layers_come_in_order_of_their_numbers():
    seen = observed("vit", depth=11)
    assert list(seen.layers) == list(seen.gradient_layers) == [f"block_{i}" for i in range(11)]
    assert seen.feature_layers == [*(f"block_{i}" for i in range(11)), "tokens"]


@pytest.mark.parametrize(
    ("family", "options", "line"),
    [
        ("vit", {"method": "rolout"}, r"there is no method 'rolout' \(did you mean 'rollout'\?\); known are attention"),
        ("vit", {"method": "attention", "layer": 2}, "a VisionTransformer has layers 0 to 1 here .*, no layer 2"),
        ("vit", {"method": "attention", "layer": "blok_1"}, r"no layer 'blok_1' here \(did you mean 'block_1'\?\)"),
        ("vit", {"method": "attention", "head": 2}, "block_1 has heads 0 to 1, no head 2"),
        ("vit", {"method": "attention", "place": (0, 3)}, "block_1 has 2x3 places; there is no 0,3"),
        ("vit", {"method": "relevance", "classes": "class 9"}, "small vit has no class 'class 9'"),
        ("vit", {"method": "relevance", "classes": 5}, "small vit has classes 0 to 4, no class 5"),
        ("vit", {"method": "relevance", "classes": [1]}, "2 pictures have 1 classes"),
        ("vit", {"method": "rollout", "classes": 1}, "rollout explains no class"),
        ("vit", {"method": "rollout", "layer": 1}, "layer means nothing to rollout; it is an option of attention"),
        ("vit", {"method": "rollout", "fusion": "sum"}, "heads are fused by mean, max, min, not 'sum'"),
        ("mixer", {"method": "rollout"}, "small mixer holds a Mixer, which has no attention"),
        ("convnext", {"method": "relevance"}, "holds a ConvNeXt, which has no attention"),
        ("swin", {"method": "rollout"}, "the layers of a SwinTransformer attend in windows"),
        ("mobilevit", {"method": "relevance"}, "the layers of a MobileViT attend in windows or among different tokens"),
        ("convnext", {"method": "grad_cam", "layer": "stage_3"}, "a ConvNeXt has no layer 'stage_3' here"),
    ],
)
def test_what_cannot_be_asked_for(family, options, line):
    model = loaded(family)
    with pytest.raises(UserError, match=line) as error:
        heat_maps(model, pictures(model), **options)
    assert "\n" not in str(error.value)


def test_models_that_show_nothing():
    merging = loaded("vit", merge_tokens=1)
    with pytest.raises(UserError, match="merged tokens are not shown on the image; load it with merge_tokens=0"):
        heat_maps(merging, pictures(merging))
    headless = loaded("vit", num_classes=0)
    assert heat_maps(headless, pictures(headless)).shape == (2, 2, 3)
    with pytest.raises(UserError, match="has no classifier"):
        heat_maps(headless, pictures(headless), "relevance")
    program = object.__new__(ExportedModel)
    program.source = "a bundle"
    with pytest.raises(UserError, match="a bundle holds a compiled program, which shows nothing within"):
        heat_maps(program, pictures(merging))


def test_an_unreadable_picture(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot read .*x\.png"):
        heat_maps(loaded("vit"), tmp_path / "x.png")


def test_classes_by_name():
    model = loaded("vit")
    named = LoadedModel(dataclasses.replace(model.weights, class_names=["3", "tench, Tinca tinca", "c", "d", "e"]))
    assert class_number(named, "3") == 0
    assert class_number(named, 3) == 3
    assert class_number(named, "4") == 4
    assert class_number(named, "Tinca Tinca") == 1
    nameless = LoadedModel(dataclasses.replace(model.weights, class_names=None))
    with pytest.raises(UserError, match="has no names of classes; give a number from 0 to 4"):
        class_number(nameless, "cat")


def test_looking_leaves_the_models_answers_alone():
    model = loaded("vit")
    before = model.predict(pictures(model))
    heat_maps(model, pictures(model), "relevance")
    np.testing.assert_array_equal(model.predict(pictures(model)), before)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(model.variables))
