"""Combinations of axes as configs, and the synthetic images that stand for a dataset."""

import numpy as np
import pytest

from tests.measurement.examples import small_cases
from vit_jax.errors import UserError
from vit_jax.measurement.cases import AXES, EXAMPLES, SyntheticSource, cases_of
from vit_jax.models.registry import list_models


def test_all_combinations_in_order():
    cases = small_cases(dtype="float32,bfloat16", remat="none,full")
    assert [case.name for case in cases] == [
        f"{dtype} remat={remat}" for dtype in ("float32", "bfloat16") for remat in ("none", "full")
    ]
    assert [case.config.model.remat for case in cases] == ["none", "full"] * 2
    assert [case.dtype for case in cases] == ["float32"] * 2 + ["bfloat16"] * 2
    assert all(case.config.train.batch_size == 8 and case.config.data.image_size == 8 for case in cases)


def test_axes_with_one_value_are_not_in_the_name():
    (case,) = small_cases()
    assert case.name == ""
    assert case.settings["depth"] == "2"


def test_every_axis_reaches_the_model_or_the_batch():
    values = dict(zip(AXES, ("vit", "16", "8", "bfloat16", "dots", "axial", "plain", "True", "3", "True"), strict=True))
    experiment = small_cases(**values)[0].experiment()
    model = experiment.model
    assert (model.dtype, model.remat, model.attention, model.attention_kernel) == ("bfloat16", "dots", "axial", "plain")
    assert (model.depth, model.scan_layers, model.fused_qkv) == (3, True, True)
    assert experiment.abstract_batch()["image"].shape == (16, 8, 8, 3)
    assert model.num_classes == 5


def test_defaults_without_a_config():
    (case,) = cases_of({})
    assert (case.config.model.name, case.config.train.batch_size, case.config.data.image_size) == ("vit_s16", 32, 224)
    assert len(SyntheticSource(8, 1000)) == EXAMPLES


def test_a_config_file_and_what_it_leaves_open(tmp_path):
    file = tmp_path / "x.py"
    text = "from vit_jax.config import default_config\ndef get_config():\n    c = default_config()\n"
    text += "    c.model.name = 'vit_ti16'\n    c.train.batch_size = 48\n"
    text += "    c.data.classes = 'cat, dog'\n    return c\n"
    file.write_text(text)
    with pytest.raises(UserError, match="give --image_size"):
        cases_of({}, str(file))
    (case,) = cases_of({"image_size": "32"}, str(file))
    assert (case.config.model.name, case.config.train.batch_size) == ("vit_ti16", 48)
    assert case.experiment().model.num_classes == 1000


def test_the_same_twice_is_refused():
    with pytest.raises(UserError, match=r"--depth and --config.model.depth set the same"):
        small_cases([("model.depth", "3")])
    with pytest.raises(UserError, match="names a value twice"):
        small_cases(dtype="float32,float32")


def test_synthetic_images():
    source = SyntheticSource(4, 3)
    image, label = source[5]
    assert image.shape == (4, 4, 3)
    assert image.dtype == np.uint8
    assert label == source.labels[5] == 2
    np.testing.assert_array_equal(image, source[5][0])


def test_architectures_have_their_own_number_of_classes():
    (case,) = cases_of({"model": "vit_cifar_micro", "image_size": "32"})
    assert case.experiment().model.num_classes == 10
    assert "vit_cifar_micro" in list_models()
