"""Every kind of model into every format and back, or a line that says why not."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.pretrained.examples import FIELDS, same_params, small_weights
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference.model import LoadedModel
from vit_jax.models.registry import create_model
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.huggingface_config import preprocessing_of
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes

SAME = "the same parameters and fields"
WRITTEN_OTHERWISE = "the same outputs"

# Fields of the model, then what comes of google, timm and huggingface: one of the two, or what the error names.
GRID = {
    "cls": ({}, SAME, SAME, SAME),
    "exact gelu": ({"gelu": "exact"}, "gelu='exact'", SAME, SAME),
    "epsilon": ({"norm_epsilon": 1e-12}, "norm_epsilon=1e-12", "norm_epsilon=1e-12", SAME),
    "headless": ({"num_classes": 0}, SAME, SAME, SAME),
    "gap": ({"pool": "gap"}, SAME, SAME, "pool='gap'"),
    "fc_norm": ({"pool": "gap", "pool_norm": True}, "pool_norm=True", SAME, "pool='gap'"),
    "cls beside gap": ({"pool": "gap", "cls_token": True}, "cls_token=True", SAME, "pool='gap'"),
    "map": ({"pool": "map"}, "pool='map'", SAME, "pool='map'"),
    "sequence": ({"pool": "sequence"}, "pool='sequence'", "pool='sequence'", "pool='sequence'"),
    "cct": ({"patch_embed": "cct"}, "patch_embed='cct'", "patch_embed='cct'", "patch_embed='cct'"),
    "dinov2": ({"pool": "cls_gap", "layer_scale": 0.5, "registers": 2}, "pool='cls_gap'", "pool='cls_gap'", SAME),
    "registers": ({"registers": 3}, "registers=3", SAME, "registers=3"),
    "registers alone": ({"registers": 2, "cls_position": False}, "registers=2", SAME, "registers=2"),
    "layer_scale": ({"layer_scale": 0.5, "num_classes": 0}, "layer_scale=0.5", SAME, SAME),
    "qk_norm": ({"qk_norm": True}, "qk_norm=True", SAME, "qk_norm=True"),
    "no qkv bias": ({"qkv_bias": False}, SAME, SAME, SAME),
    "swiglu": (
        {"mlp": "swiglu", "gelu": "exact", "layer_scale": 0.5, "num_classes": 0}, "gelu='exact'", SAME, SAME,
    ),
    "swiglu and map": ({"mlp": "swiglu", "pool": "map"}, "mlp='swiglu'", "pool='map'", "pool='map'"),
    "swiglu alone": ({"mlp": "swiglu", "gelu": "exact"}, "gelu='exact'", SAME, "mlp='swiglu'"),
    "cls without position": ({"cls_position": False}, SAME, SAME, SAME),
    "not square": ({"size": (8, 12)}, SAME, SAME, SAME),
    "flat patches": ({"patch_size": (4, 2)}, SAME, SAME, SAME),
    "pre_logits": ({"pre_logits": 12}, SAME, "pre_logits=12", "pre_logits"),
    "pooler": ({"pre_logits": 16, "num_classes": 0}, SAME, "pre_logits=16", SAME),
    "norm before": ({"pre_norm": True}, "pre_norm=True", SAME, "pre_norm=True"),
    "no position": ({"position": "none"}, "position='none'", SAME, "position='none'"),
    "sincos2d": ({"position": "sincos2d"}, WRITTEN_OTHERWISE, WRITTEN_OTHERWISE, WRITTEN_OTHERWISE),
    "sincos2d and gap": (
        {"position": "sincos2d", "pool": "gap", "size": (8, 12)}, WRITTEN_OTHERWISE, WRITTEN_OTHERWISE, "pool='gap'",
    ),
    "distilled": ({"model": "vit_distilled"}, "Distilled", SAME, SAME),
    "distilled, one head": (
        {"model": "vit_distilled", "dist_classifier": False}, "Distilled", "dist_classifier=False", SAME,
    ),
    "distilled, no head": ({"model": "vit_distilled", "num_classes": 0}, "Distilled", SAME, "dist_classifier=True"),
    "distilled, no position": (
        {"model": "vit_distilled", "cls_position": False}, "Distilled", WRITTEN_OTHERWISE, SAME,
    ),
    "distilled, registers": ({"model": "vit_distilled", "registers": 1}, "Distilled", "registers=1", "registers=1"),
    "hybrid": (
        {"model": "hybrid", "stages": (1, 1), "stem_width": 32, "patch_size": (1, 1), "size": (16, 16)},
        SAME, "HybridVisionTransformer", "HybridVisionTransformer",
    ),
    "hybrid, only root": (
        {"model": "hybrid", "stages": (), "stem_width": 32, "patch_size": (2, 2), "size": (16, 16)},
        SAME, "HybridVisionTransformer", "HybridVisionTransformer",
    ),
    "mixer": ({"model": "mixer"}, SAME, "Mixer", "Mixer"),
}  # fmt: skip


@functools.cache
def made(name: str) -> Weights:
    """Returns the weights of a row of the grid, made once."""
    return small_weights(**GRID[name][0])


def fields_of(module) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
    return {name: getattr(module, name) for name in names}


@pytest.mark.parametrize("kind", ["google", "timm", "huggingface", "vit_jax"])
@pytest.mark.parametrize("name", GRID)
def test_there_and_back(name, kind, tmp_path):
    weights, outcome = made(name), dict(zip(("google", "timm", "huggingface"), GRID[name][1:], strict=True)).get(kind)
    out = tmp_path / ("x.npz" if kind == "google" else "x")
    if outcome not in (SAME, WRITTEN_OTHERWISE, None):
        with pytest.raises(UserError) as error:
            save_weights(weights, out, kind)
        assert outcome in str(error.value)
        assert "\n" not in str(error.value)
        assert not out.exists()
        return
    notes = save_weights(weights, out, kind)
    back = load_weights(str(out))
    if outcome == WRITTEN_OTHERWISE:
        assert any("positions" in note or "zeros" in note for note in notes)
        x = np.random.default_rng(3).normal(size=(2, *weights.image_size, 3)).astype(np.float32)
        np.testing.assert_array_equal(LoadedModel(back).logits(x), LoadedModel(weights).logits(x))
        return
    assert same_params(back.params, weights.params)
    assert fields_of(back.module) == fields_of(weights.module)
    assert type(back.module) is type(weights.module)
    assert not [line for line in back.unused if "mask_token" not in line]
    if kind == "google":
        square = weights.image_size[0] == weights.image_size[1]
        expected = weights.image_size if square and GRID[name][0].get("patch_size") != (4, 2) else None
        assert (back.image_size, back.class_names) == (expected, None)
    else:
        assert back.image_size == weights.image_size
        assert back.class_names == weights.class_names
        assert back.preprocessing == weights.preprocessing


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_every_crop_comes_back(kind):
    """timm states the crop's share of the image and rounds down, so the share must not be a hair too large."""
    weights = small_weights()
    for size, resize in ((8, 8), (8, 9), (160, 212), (224, 256), (224, 354), (384, 431), (48, 59)):
        seen = dataclasses.replace(weights.preprocessing, size=(size, size), resize=resize)
        changed = dataclasses.replace(weights, preprocessing=seen, image_size=(size, size))
        if kind == "timm":
            assert timm.stated_preprocessing(timm.hub_config(changed), (size, size)) == seen
        else:
            assert preprocessing_of(huggingface.preprocessing_config(changed), (size, size)) == seen


def test_timm_is_told_the_size_of_the_positions():
    """Not that of the pictures, where they differ as in DINOv2: timm's models take one size only."""
    weights = dataclasses.replace(small_weights(), image_size=(16, 16))
    config = timm.hub_config(weights)
    assert config["model_args"]["img_size"] == config["pretrained_cfg"]["input_size"][1:] == [16, 16]
    assert timm.stated_preprocessing(config, (16, 16)) == weights.preprocessing.at_size((16, 16))


def test_squashing_comes_back(tmp_path):
    weights = small_weights(size=(8, 12))
    weights = dataclasses.replace(weights, preprocessing=dataclasses.replace(weights.preprocessing, resize=None))
    for kind in ("timm", "huggingface"):
        save_weights(weights, tmp_path / kind, kind)
        assert load_weights(str(tmp_path / kind)).preprocessing == weights.preprocessing


FOUR_STAGES = {"num_classes": 5, "depths": (1, 1, 1, 1), "widths": (4, 8, 12, 16)}


@pytest.mark.parametrize("name", ["beit", "convnext"])
def test_timm_is_told_where_there_is_no_layer_scale(name, tmp_path):
    """timm drops arguments of None, so that what the named architecture has would come back."""
    fields = {**(FOUR_STAGES if name == "convnext" else FIELDS), "layer_scale": None}
    shapes = parameter_shapes(create_model(name, **fields), (32, 32))
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    weights = make_weights(name, fields, params, (32, 32), Preprocessing((32, 32), 36), "made")
    save_weights(weights, tmp_path / "x", "timm")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    if name == "beit":
        assert config["model_args"]["init_values"] == 0.0
    else:  # of the second version none has a scale, and False is no None
        assert config["architecture"] == "convnextv2_tiny"
        assert config["model_args"]["use_grn"] is False
    assert load_weights(str(tmp_path / "x")).module.layer_scale is None


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_what_a_format_cannot_say_is_noted(kind, tmp_path):
    weights = small_weights()
    weights = dataclasses.replace(weights, preprocessing=dataclasses.replace(weights.preprocessing, antialias=False))
    assert any("antialiasing" in note for note in save_weights(weights, tmp_path / "x", kind))


@pytest.mark.parametrize("kind", ["google", "timm", "huggingface"])
def test_sincos2d_is_written_for_a_known_size_only(kind, tmp_path):
    weights = dataclasses.replace(small_weights(position="sincos2d"), image_size=None)
    with pytest.raises(UserError, match="image_size"):
        save_weights(weights, tmp_path / "x.npz" if kind == "google" else tmp_path / "x", kind)
