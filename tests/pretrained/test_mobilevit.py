"""MobileViTs in timm's names and Hugging Face's: what files and documents tell, and what the libraries cannot hold."""

import functools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pretrained.examples import arrays_of, refused, same_params, torch_folder
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.registry import create_model
from vit_jax.pretrained.catalogue import published
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.mobilevit import TIMM
from vit_jax.pretrained.names import write
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes

SIZE = (32, 40)
SMALL = {
    "num_classes": 5,
    "widths": (8, 8, 8, 16, 8),
    "transformer_widths": (0, 0, 8, 16, 24),
    "stem_width": 8,
    "last_width": 8,
    "expand_ratio": 2.0,
}
HUGGINGFACE_ONLY = {"heads": 2, "mlp_ratio": 1.7, "kernel_size": 5, "qkv_bias": False, "norm_epsilon": 1e-3}


@functools.cache
def random_weights(model: str, **fields) -> Weights:
    """Returns weights with random parameters and statistics; made once, not to be changed in place."""
    module, generator = create_model(model, **fields), np.random.default_rng(0)
    shapes = parameter_shapes(module, SIZE)
    params = {name: generator.uniform(0.1, 1, size=shape).astype(np.float32) for name, shape in sorted(shapes.items())}
    seen = Preprocessing(SIZE, 36, "bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    names = [f"class {i}" for i in range(module.num_classes)] or None
    return make_weights(model, fields, params, SIZE, seen, "random", names)


@pytest.mark.parametrize(
    ("kind", "model", "fields"),
    [
        ("timm", "mobilevit_xxs", {"num_classes": 5}),
        ("timm", "mobilevit_xxs", {"num_classes": 0, "last_width": 0, "stem_width": 8}),
        ("huggingface", "mobilevit", SMALL),
        ("huggingface", "mobilevit", {**SMALL, "num_classes": 0, "expand_ratio": 3.0, "patch_size": (4, 4)}),
        ("huggingface", "mobilevit", {**SMALL, **HUGGINGFACE_ONLY}),
    ],
)
def test_there_and_back(kind, model, fields, tmp_path):
    weights = random_weights(model, **fields)
    assert save_weights(weights, tmp_path / "x", kind) == []
    back = load_weights(str(tmp_path / "x"))
    assert same_params(back.params, weights.params)
    assert back.module == weights.module
    assert (back.image_size, back.class_names, back.preprocessing) == (SIZE, weights.class_names, weights.preprocessing)
    assert (back.unused, back.notes) == ((), ())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("timm", {}, r"published sizes \(xxs, xs, s\), not with widths \(8, 8, 8, 16, 8\)"),
        ("timm", {"heads": 2}, "cannot express heads=2, only 4"),
        ("timm", {"patch_size": (4, 4)}, r"cannot express patch_size=\(4, 4\)"),
        ("huggingface", {"patch_size": (2, 4)}, r"square patches, not \(2, 4\)"),
        ("huggingface", {"last_width": 0}, "last_width above 0"),
        ("huggingface", {"depths": (1, 2, 2, 2, 2)}, r"cannot express depths=\(1, 2, 2, 2, 2\)"),
    ],
)
def test_what_a_library_cannot_hold_is_one_line(kind, fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        save_weights(random_weights("mobilevit", **{**SMALL, **fields}), tmp_path / "x", kind)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_without_documents_it_is_as_published(kind, tmp_path):
    weights = random_weights("mobilevit_xxs", num_classes=5)
    back = load_weights(str(torch_folder(tmp_path, arrays_of(weights, kind, tmp_path))))
    assert same_params(back.params, weights.params)
    assert back.module == weights.module
    assert back.name == "mobilevit_xxs"
    assert back.preprocessing.size == (256, 256)
    if kind == "timm":
        assert back.preprocessing == published("mobilevit_xxs").preprocessing


def test_timms_names_may_be_of_any_sizes(tmp_path):
    """As of a `ByobNet` that somebody put together."""
    fields = {
        "num_classes": 3,
        "depths": (2, 2, 3),
        "widths": (8, 16, 24),
        "transformer_depths": (0, 1, 2),
        "transformer_widths": (0, 8, 16),
        "stem_width": 16,
        "last_width": 8,
        "expand_ratio": 1.5,
    }
    weights = random_weights("mobilevit", **fields)
    arrays = write(TIMM.table(weights.module), weights.params, "timm")
    back = load_weights(str(torch_folder(tmp_path, arrays)))
    assert same_params(back.params, weights.params)
    assert back.module == weights.module


def huggingface_folder(tmp_path, **processor):
    """Returns a folder of a small model whose processor is described so."""
    weights = random_weights("mobilevit", **SMALL)
    save_weights(weights, tmp_path / "x", "huggingface")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    arrays = load_file(tmp_path / "x" / "model.safetensors")
    return weights, torch_folder(tmp_path, arrays, config=config, preprocessor_config=processor)


PUBLISHED = {
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_resize": True,
    "image_processor_type": "MobileViTImageProcessor",
    "resample": 2,
    "size": {"shortest_edge": 36},
}


@pytest.mark.parametrize("flips", [True, False])
def test_published_models_are_for_blue_green_red(flips, tmp_path):
    """Their processor turns the channels round and does not normalise; here the stem's kernel is turned round."""
    weights, folder = huggingface_folder(tmp_path, **PUBLISHED, do_flip_channel_order=flips)
    back = load_weights(str(folder))
    kernel = weights.params["stem/conv/kernel"]
    np.testing.assert_array_equal(back.params["stem/conv/kernel"], kernel[:, :, ::-1] if flips else kernel)
    assert any("red, green, blue" in note for note in back.notes) == flips
    assert back.preprocessing == Preprocessing((32, 32), 36, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_the_channels_order_is_that_of_the_processor_where_nothing_is_said(tmp_path):
    weights, folder = huggingface_folder(tmp_path, **PUBLISHED)
    kernel = load_weights(str(folder)).params["stem/conv/kernel"]
    np.testing.assert_array_equal(kernel, weights.params["stem/conv/kernel"][:, :, ::-1])
    (folder / "preprocessor_config.json").unlink()
    back = load_weights(str(folder))
    np.testing.assert_array_equal(back.params["stem/conv/kernel"], weights.params["stem/conv/kernel"])
    assert "no preprocessor_config.json beside it" in back.notes[0]


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("timm", {"architecture": "mobilevitv2_100"}, "MobileViT V2"),
        ("timm", {"model_args": {"act_layer": "relu"}}, "act_layer 'relu'"),
        ("timm", {"model_args": {"output_stride": 16}}, "output_stride 16"),
        ("huggingface", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("huggingface", {"output_stride": 16}, "output_stride 16"),
        ("huggingface", {"num_attention_heads": "four"}, "config.json"),
        ("huggingface", {"num_attention_heads": 3}, "multiple of 3 heads"),
    ],
)
def test_another_model_is_one_line(kind, config, message, tmp_path):
    model, fields = ("mobilevit_xxs", {"num_classes": 5}) if kind == "timm" else ("mobilevit", SMALL)
    arrays = arrays_of(random_weights(model, **fields), kind, tmp_path)
    assert message in refused(torch_folder(tmp_path, arrays, config=config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("stages.3.1.conv_fusion.bn.running_var"), "running_var is missing"),
        (lambda arrays: arrays.pop("stages.2.1.norm.weight"), "stages.2.1.norm.weight is missing"),
        (lambda arrays: arrays.pop("final_conv.bn.bias"), "final_conv.bn.bias is missing"),
        (lambda arrays: arrays.pop("stages.2.1.transformer.0.mlp.fc1.weight"), "mlp.fc1.weight is missing"),
        (lambda arrays: arrays.update({"stages.0.0.attn.fc1.weight": np.ones(3)}), "belongs to no part"),
        (lambda arrays: arrays.update({"stem.conv.weight": np.ones(3)}), "not 4 axes"),
        (
            lambda arrays: arrays.update({"stages.1.1.conv1_1x1.conv.weight": np.ones((56, 24, 1, 1))}),
            "no one ratio makes the hidden widths",
        ),
    ],
)
def test_damaged_files_are_one_line(change, message, tmp_path):
    arrays = arrays_of(random_weights("mobilevit_xxs", num_classes=5), "timm", tmp_path)
    change(arrays)
    assert message in refused(torch_folder(tmp_path, arrays))


def test_buffers_of_pytorch_are_named(tmp_path):
    weights = random_weights("mobilevit_xxs", num_classes=5)
    arrays = arrays_of(weights, "timm", tmp_path) | {"stem.bn.num_batches_tracked": np.ones((), np.int64)}
    back = load_weights(str(torch_folder(tmp_path, arrays)))
    assert back.unused == ("stem.bn.num_batches_tracked (a counter of training steps)",)


def test_the_ratio_that_config_json_states_is_kept(tmp_path):
    """Of 8 and 16 channels, 2.9 makes what 3 makes."""
    weights = random_weights("mobilevit", **{**SMALL, "expand_ratio": 2.9})
    save_weights(weights, tmp_path / "x", "huggingface")
    assert load_weights(str(tmp_path / "x")).module.expand_ratio == 2.9
    arrays = load_file(tmp_path / "x" / "model.safetensors")
    assert load_weights(str(torch_folder(tmp_path, arrays))).module.expand_ratio == 3.0
