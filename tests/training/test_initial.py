"""Runs that start from weights of a file: what they take from it, what they say, and evaluation without training."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from vit_jax.config import default_config, resolve
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.data.sources import digits_source
from vit_jax.errors import UserError
from vit_jax.inference.model import load_model
from vit_jax.models.registry import create_model
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.surgery import fit
from vit_jax.pretrained.weights import flat, make_weights, parameter_shapes
from vit_jax.training.evaluate import evaluate
from vit_jax.training.experiment import build
from vit_jax.training.initial import resolved, with_weights
from vit_jax.training.run import train

FIELDS = {"patch_size": (4, 4), "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32, "gelu": "exact", "qk_norm": True}
SEEN = Preprocessing((8, 8), interpolation="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """`published(classes)`: a timm folder of random weights for 8x8 images."""

    def write(classes: int) -> str:
        folder = tmp_path_factory.mktemp("published")
        fields = {**FIELDS, "num_classes": classes}
        generator = np.random.default_rng(0)
        shapes = parameter_shapes(create_model("vit", **fields), (8, 8))
        params = {name: generator.normal(size=shape) / 3 for name, shape in shapes.items()}
        names = [f"kind {i}" for i in range(classes)]
        save_weights(make_weights("vit", fields, params, (8, 8), SEEN, "made up", names), folder, "timm")
        return str(folder)

    return write


@pytest.fixture
def fine_tuning(config, published):
    """The small run of these tests, from weights with 7 classes."""
    for field in ("patch_size", "width", "depth", "heads", "mlp_dim"):
        del config.model[field]
    config.model.name = None
    config.init_from = published(7)
    return config


def test_what_the_config_leaves_open_is_that_of_the_weights(fine_tuning):
    fine_tuning.data.std = (0.5, 0.5, 0.5)
    config, weights = resolved(fine_tuning)
    assert config.model.name == "vit"
    assert {key: config.model[key] for key in FIELDS} == FIELDS
    assert "num_classes" not in config.model
    assert (config.data.image_size, config.data.interpolation, config.data.mean) == (8, "bicubic", SEEN.mean)
    assert config.data.std == (0.5, 0.5, 0.5)  # set, so it wins
    assert resolve(config, weights) == config


def test_run_starts_from_the_weights_and_says_what_became_of_them(fine_tuning, tmp_path, capsys):
    fine_tuning.train.duration = "4 steps"
    config, weights = resolved(fine_tuning)
    experiment = build(config)
    state = with_weights(experiment, experiment.init(), weights)
    said = capsys.readouterr().out
    assert "initialised: head (10 classes, not 7)" in said
    assert "unlike" not in said
    for params in (state.params, state.ema_params):
        params = flat({"params": jax.device_get(params)})
        assert params["head/kernel"].shape == (16, 10)
        assert not params["head/kernel"].any()
        for name in weights.params.keys() - {"head/kernel", "head/bias"}:
            np.testing.assert_array_equal(params[name], weights.params[name])


def test_run_continues_although_the_file_is_gone(fine_tuning, tmp_path, capsys):
    fine_tuning.train.duration = "8 steps"
    workdir = str(tmp_path / "run")
    state, _ = train(fine_tuning, workdir=workdir)
    shutil.rmtree(fine_tuning.init_from)
    again, _ = train(fine_tuning, workdir=workdir)
    assert f"continuing {workdir} from step 8" in capsys.readouterr().out
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(one, other)
    model = load_model(workdir)
    assert model.preprocessing == SEEN
    assert model.class_names == [str(i) for i in range(10)]
    assert model.module.gelu == "exact"


def test_weights_are_evaluated_without_training(fine_tuning, published, tmp_path):
    fine_tuning.init_from = published(10)
    metrics = evaluate(fine_tuning, str(tmp_path / "run"))
    source = digits_source("test")
    images, labels = zip(*(source[row] for row in range(len(source))), strict=True)
    top = load_model(fine_tuning.init_from).predict(images).argmax(-1)
    assert metrics["top1"] == pytest.approx((top == np.array(labels)).mean())
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["checkpoint"] == fine_tuning.init_from


def test_weights_of_other_classes_cannot_be_evaluated(fine_tuning, tmp_path):
    with pytest.raises(UserError, match="has 7 classes, digits has 10"):
        evaluate(fine_tuning, str(tmp_path / "run"))


def test_run_from_weights_is_evaluated_by_the_same_command(fine_tuning, tmp_path):
    fine_tuning.train.duration = "4 steps"
    workdir = str(tmp_path / "run")
    _, metrics = train(fine_tuning, workdir=workdir)
    assert evaluate(fine_tuning, workdir)["top1"] == pytest.approx(metrics["eval/top1"])


def test_name_of_another_architecture_is_refused(fine_tuning):
    fine_tuning.model.name = "vit_ti16"
    with pytest.raises(UserError, match=r"has width 16, but model 'vit_ti16' has 192; leave model\.name unset"):
        resolved(fine_tuning)


def test_set_keys_win_and_what_is_new_is_said(fine_tuning, capsys):
    fine_tuning.model.registers = 2
    fine_tuning.model.pool = "gap"
    fine_tuning.data.mean = (0.1, 0.1, 0.1)
    config, weights = resolved(fine_tuning)
    experiment = build(config)
    with_weights(experiment, experiment.init(), weights)
    said = capsys.readouterr().out
    assert "initialised: registers" in said
    assert "unused: cls" in said
    assert "unlike those weights: data.mean was (0.4, 0.5, 0.6), is (0.1, 0.1, 0.1)" in said


def test_pre_logits_go_with_the_old_head(config, tmp_path):
    fields = {**FIELDS, "qk_norm": False, "gelu": "tanh", "pre_logits": 16, "num_classes": 10}
    generator = np.random.default_rng(0)
    shapes = parameter_shapes(create_model("vit", **fields), (8, 8))
    params = {name: generator.normal(size=shape) / 3 for name, shape in shapes.items()}
    weights = make_weights("vit", fields, params, (8, 8), SEEN, "made up")
    save_weights(weights, tmp_path / "w.npz", "google")
    config.init_from = str(tmp_path / "w.npz")
    config.model.name = None
    for field in ("patch_size", "width", "depth", "heads", "mlp_dim"):
        del config.model[field]
    resolved_config, read = resolved(config)
    assert "pre_logits" not in resolved_config.model
    module = create_model("vit", **{**fields, "pre_logits": None})
    fitted, report = fit(read, module, (8, 8), lambda: flat(module.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))))
    assert not fitted["head/kernel"].any()
    assert "initialised: head (the pre-logits layer differs)" in "\n".join(report.lines())
    assert resolve(config, read, whole=True).model.pre_logits == 16


def test_run_that_overrode_its_name_is_a_start_too(config, tmp_path):
    config.train.duration = "4 steps"
    workdir = str(tmp_path / "run")
    config.train.ema_decay = None
    state, _ = train(config, workdir=workdir)
    again = default_config()
    again.init_from = workdir
    taken, weights = resolved(again)
    assert taken.model.name == "vit_cifar_micro"
    assert (taken.model.width, taken.model.depth, taken.model.mlp_dim) == (16, 2, 32)
    for name, array in flat({"params": jax.device_get(state.params)}).items():
        np.testing.assert_array_equal(weights.params[name], array)


def test_evaluation_repeats_the_command_of_the_training(fine_tuning, tmp_path):
    fine_tuning.train.duration = "4 steps"
    fine_tuning.data.classes = "5-7"
    fine_tuning.surgery.new_head = True
    workdir = str(tmp_path / "run")
    _, metrics = train(fine_tuning, workdir=workdir)
    assert evaluate(fine_tuning, workdir)["top1"] == pytest.approx(metrics["eval/top1"])
    assert load_weights(workdir).position_resize == "bicubic"
    fine_tuning.model.registers = 1
    with pytest.raises(UserError, match="does not hold all of the model to evaluate: registers would be random"):
        evaluate(fine_tuning, workdir)


def test_what_only_the_config_tells_reaches_the_reader(fine_tuning):
    folder = pathlib.Path(fine_tuning.init_from)
    (folder / "config.json").unlink()
    fine_tuning.model.qk_norm = True
    fine_tuning.model.heads = 2
    assert resolved(fine_tuning)[1].module.heads == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("new_head", True, r"surgery\.\* is set, but there are no weights to fit"),
        ("positions", "cubic", r"surgery\.positions must be linear or bicubic, not 'cubic'"),
    ],
)
def test_surgery_that_cannot_be_is_refused(config, key, value, message):
    config.surgery[key] = value
    with pytest.raises(UserError, match=message):
        resolved(config)
