"""EfficientFormers in timm's names: what files and `config.json` tell, what timm cannot hold, and other image sizes."""

import functools

import jax
import numpy as np
import pytest

from tests.pretrained.examples import arrays_of, refused, same_params, torch_folder
from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference.model import LoadedModel
from vit_jax.layers.relative_bias import OffsetBias, resize_offsets
from vit_jax.models.registry import create_model
from vit_jax.pretrained.catalogue import published
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.names import HeadByHead
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.surgery import fit
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes

SMALL = {"num_classes": 5, "depths": (1, 2, 1, 3), "widths": (4, 6, 8, 6), "attention_blocks": 2}
TABLE = "encoder/stage_3/block_2/offset_bias/table"
BIASES = "stages.3.blocks.2.token_mixer.attention_biases"


@functools.cache
def random_weights(size: tuple[int, int] = (224, 224), **fields) -> Weights:
    """Returns weights with random parameters and statistics; made once, not to be changed in place."""
    fields = {**SMALL, **fields}
    module, generator = create_model("efficientformer", **fields), np.random.default_rng(0)
    shapes = parameter_shapes(module, size)
    params = {name: generator.uniform(0.1, 1, size=shape).astype(np.float32) for name, shape in sorted(shapes.items())}
    seen = Preprocessing(size, 235, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    names = [f"class {i}" for i in range(module.num_classes)] or None
    return make_weights("efficientformer", fields, params, size, seen, "random", names)


def test_projections_lie_head_by_head():
    """Queries of head 0, its keys, its values, then those of head 1 (timm's reshape to heads before the split)."""
    shapes = [(2, 2, 1), (2, 2, 1), (2, 2, 3)]
    array = np.arange(2 * 5 * 2).reshape(10, 2)
    query, key, value = HeadByHead().read(array, shapes)
    np.testing.assert_array_equal(query[:, 1, 0], array[5])
    np.testing.assert_array_equal(key[:, 0, 0], array[1])
    np.testing.assert_array_equal(value[:, 1], array[7:10].T)
    np.testing.assert_array_equal(HeadByHead().write([query, key, value]), array)
    biases = HeadByHead().read(np.arange(10), [shape[1:] for shape in shapes])
    np.testing.assert_array_equal(biases[2], [[2, 3, 4], [7, 8, 9]])
    np.testing.assert_array_equal(HeadByHead().write(biases), np.arange(10))
    for wrong in (array[:9], array[:, :1]):
        with pytest.raises(ValueError, match=r"^$"):
            HeadByHead().read(wrong, shapes)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_classes": 0, "mlp_ratio": 2.5},
        {"attention_blocks": 3, "pool_size": 5, "layer_scale": 0.5},
        {"depths": (1, 1, 1, 1), "attention_blocks": 1},
    ],
)
def test_there_and_back(fields, tmp_path):
    weights = random_weights(**fields)
    assert save_weights(weights, tmp_path / "x", "timm") == []
    back = load_weights(str(tmp_path / "x"))
    assert same_params(back.params, weights.params)
    assert back.module == weights.module
    assert (back.image_size, back.preprocessing) == ((224, 224), weights.preprocessing)
    assert back.class_names == weights.class_names


def test_what_timm_wants_to_find_is_there(tmp_path):
    """Two buffers, and kernels of the pooling blocks' MLPs as convolutions; a part that only reshapes is counted."""
    arrays = arrays_of(random_weights(), "timm", tmp_path)
    assert arrays["stages.3.blocks.0.mlp.fc1.weight"].shape == (24, 6, 1, 1)
    assert arrays["stages.3.blocks.2.mlp.fc1.weight"].shape == (24, 6)
    index = arrays["stages.3.blocks.3.token_mixer.attention_bias_idxs"]
    assert (index.dtype, index.shape, index.max()) == (np.int64, (49, 49), 48)
    assert (index[0, 8], index[8, 0], index[3, 7]) == (8, 8, 10)
    back = load_weights(str(torch_folder(tmp_path, arrays)))
    assert back.unused == (f"{BIASES.replace('biases', 'bias_idxs')} and 1 more (computed from the grid's size)",)
    assert back.notes == ("no config.json beside it: what names and shapes do not tell is as published models have it",)
    assert back.preprocessing == published("efficientformer_l1").preprocessing


def test_the_bias_is_timms(tmp_path):
    """Of query and key, in row and column of the grid: the entry of their offsets in the file's row of a head."""
    weights = random_weights()
    biases = arrays_of(weights, "timm", tmp_path)[BIASES]
    table = weights.params["encoder/stage_3/block_1/offset_bias/table"]
    bias = OffsetBias(8).apply({"params": {"table": table}}, 7, 7)[0]
    for query, key in (((0, 0), (6, 2)), ((5, 6), (3, 1)), ((4, 4), (4, 4))):
        down, right = abs(query[0] - key[0]), abs(query[1] - key[1])
        found = bias[:, query[0] * 7 + query[1], key[0] * 7 + key[1]]
        np.testing.assert_array_equal(found, biases[:, down * 7 + right])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_blocks": 0}, "attention_blocks above 0"),
        ({"head_dim": 16}, "cannot express head_dim=16, only 32"),
        ({"dist_classifier": False}, "cannot express dist_classifier=False"),
        ({"size": (256, 224)}, "7x7 places, as of 224x224 images, not 8x7 as of 256x224"),
    ],
)
def test_what_timm_cannot_hold_is_one_line(fields, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        save_weights(random_weights(**fields), tmp_path / "x", "timm")
    assert "\n" not in str(error.value)


def test_a_file_without_the_second_head(tmp_path):
    arrays = arrays_of(random_weights(), "timm", tmp_path)
    one = {name: array for name, array in arrays.items() if not name.startswith("head_dist")}
    back = load_weights(str(torch_folder(tmp_path, one)))
    assert not back.module.dist_classifier
    assert "head_dist/kernel" not in back.params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("stages.0.blocks.0.mlp.norm1.running_mean"), "running_mean is missing"),
        (lambda arrays: arrays.pop("stages.3.blocks.3.token_mixer.qkv.bias"), "qkv.bias is missing"),
        (lambda arrays: arrays.pop("stages.2.downsample.conv.bias"), "downsample.conv.bias is missing"),
        (lambda arrays: arrays.pop("head_dist.weight"), "head_dist.weight is missing"),
        (lambda arrays: arrays.update({"stages.0.downsample.conv.weight": np.ones(3)}), "belongs to no part"),
        (lambda arrays: arrays.update({BIASES: np.ones((8, 36), np.float32)}), "has shape"),
        (lambda arrays: arrays.update({BIASES: np.ones((0, 49), np.float32)}), "has shape"),
    ],
)
def test_damaged_files_are_one_line(change, message, tmp_path):
    arrays = arrays_of(random_weights(), "timm", tmp_path)
    change(arrays)
    assert message in refused(torch_folder(tmp_path, arrays))


def test_another_model_is_one_line(tmp_path):
    arrays = arrays_of(random_weights(), "timm", tmp_path)
    assert "act_layer" in refused(torch_folder(tmp_path, arrays, config={"model_args": {"act_layer": "relu"}}))
    assert "global_pool" in refused(torch_folder(tmp_path, arrays, config={"model_args": {"global_pool": ""}}))


def test_offsets_are_resized_as_relative_positions_are():
    table = np.random.default_rng(0).normal(size=(7, 7, 2)).astype(np.float32)
    np.testing.assert_array_equal(resize_offsets(table, (7, 7)), table)
    larger = resize_offsets(table, (9, 5))
    assert larger.shape == (9, 5, 2)
    np.testing.assert_allclose(larger[0, 0], table[0, 0], rtol=1e-6)  # no offset stays no offset
    constant = resize_offsets(np.full((7, 7, 1), 2.5, np.float32), (3, 12))
    np.testing.assert_allclose(constant, 2.5, rtol=1e-6)


def test_other_image_sizes_resize_the_biases_where_weights_are_loaded():
    """And pictures of one grid, such as 200x215 of 7x7 places, need no resizing."""
    model = LoadedModel(random_weights())
    same = model.variables_for((200, 215))["params"]["encoder"]["stage_3"]["block_2"]
    np.testing.assert_array_equal(same["offset_bias"]["table"], model.weights.params[TABLE])
    variables = model.variables_for((96, 130))
    table = variables["params"]["encoder"]["stage_3"]["block_2"]["offset_bias"]["table"]
    np.testing.assert_array_equal(table, resize_offsets(model.weights.params[TABLE], (3, 5)))
    x = jax.ShapeDtypeStruct((1, 96, 130, 3), np.float32)
    assert jax.eval_shape(model.module.apply, variables, x).shape == (1, 5)


def test_a_new_size_and_new_heads():
    module = create_model("efficientformer", **{**SMALL, "num_classes": 3})
    start = {name: np.zeros(shape) for name, shape in parameter_shapes(module, (64, 64)).items()}
    params, report = fit(random_weights(), module, (64, 64), lambda: start)
    assert {name.split("/")[0] for name, array in params.items() if not array.any()} == {"head", "head_dist"}
    assert len(report.resized) == 2
    assert all(line.endswith("/offset_bias/table (linear between distances that grow)") for line in report.resized)
