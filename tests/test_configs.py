"""The shipped config files: each resolves, can be built from, and says in its docstring how it is run."""

import ast
import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from vit_jax.config import flatten, load_config, model_overrides, resolve
from vit_jax.data.sources import ArraySource
from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError
from vit_jax.measurement.flops import model_flops
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.registry import architecture, create_model
from vit_jax.pretrained.catalogue import published_names
from vit_jax.training.distillation import check_distill
from vit_jax.training.experiment import host_transform
from vit_jax.training.losses import make_loss
from vit_jax.training.optimizer import make_optimizer, parameter_count

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
SMALL = ("vit", "deit", "swin", "convnext", "resnet18", "cct")
SPECS = [str(path) for path in FILES if path.stem != "folder"]
SPECS += [f"{ROOT}/configs/folder.py:images", f"{ROOT}/configs/cifar10.py:gpu"]
SPECS += [f"{ROOT}/configs/cifar10.py:{model}" for model in SMALL] + [f"{ROOT}/configs/cifar10.py:cct_gpu"]
SPECS += [f"{ROOT}/configs/deit_s16.py:distilled", f"{ROOT}/configs/resnet50.py:a2"]
SPECS += [f"{ROOT}/configs/vit_b16.py:{data}" for data in ("cifar100", "imagenet2012", "folder:images", "scratch")]
EXAMPLES = {"digits": 1_437, "cifar10": 50_000, "cifar100": 50_000, "imagenet2012": 1_268_355, "folder:images": 2_000}
"""Sizes of the training splits."""

names = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
specs = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.rpartition("/")[2])


def test_there_are_config_files():
    assert {"cifar10", "digits", "folder", "vit_b16", "vit_s16_imagenet"} <= {path.stem for path in FILES}


@names
def test_docstring_names_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    assert f"python -m vit_jax.main --config=configs/{path.name}" in docstring


@specs
def test_it_resolves_and_its_parts_can_be_made(spec):
    config = resolve(load_config(spec))
    create_model(config.model.name, **model_overrides(config))
    clock = Clock(EXAMPLES[config.data.name], config.train.batch_size)
    total = to_steps(config.train.duration, clock, "train.duration")
    clock = dataclasses.replace(clock, total_steps=total)
    assert total > 100
    for group, key in (("train", "log_every"), ("schedule", "warmup"), ("eval", "every"), ("checkpoint", "every")):
        assert 0 <= to_steps(config[group][key], clock, f"{group}.{key}") < total
    make_optimizer(config, clock)
    make_loss(config.train)
    images = ArraySource(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, int), ["one"])
    assert host_transform(config, images).size in ((32, 32), (160, 160), (224, 224), (384, 384))


@pytest.mark.parametrize("name", ["vit_b16", "vit_s16", "vit_l16", "r50_vit_b16", "linear_probe"])
def test_fine_tuning_takes_the_data_set_as_its_argument(name):
    cifar, imagenet, folder = (
        load_config(f"{ROOT}/configs/{name}.py{argument}") for argument in ("", ":imagenet2012", ":folder:my/images")
    )
    assert cifar == load_config(f"{ROOT}/configs/{name}.py:cifar10")
    assert (cifar.data.name, imagenet.data.name, folder.data.name) == ("cifar10", "imagenet2012", "folder:my/images")
    assert (cifar.data.eval_split, imagenet.data.eval_split) == ("test", "validation")
    assert cifar.init_from == imagenet.init_from == folder.init_from
    assert cifar.init_from in published_names()
    for wrong in ("imagenet", "folder:", "folder"):
        with pytest.raises(UserError, match=rf"imagenet2012 or folder:PATH, not '{wrong}'"):
            load_config(f"{ROOT}/configs/{name}.py:{wrong}")


def test_google_recipe_is_the_predecessor_s():
    c = load_config(f"{ROOT}/configs/vit_b16.py")
    assert (c.optimizer.name, c.optimizer.momentum, c.optimizer.weight_decay) == ("sgd", 0.9, 0.0)
    assert (c.optimizer.lr, c.train.batch_size, c.train.clip_norm) == (0.01, 512, 1.0)
    assert (c.train.duration, c.schedule.warmup, c.data.train_split) == ("10000 steps", "500 steps", "train[:98%]")
    assert load_config(f"{ROOT}/configs/vit_b16.py:imagenet2012").optimizer.lr == 0.03
    assert load_config(f"{ROOT}/configs/vit_b16.py:scratch").init_from is None


def test_cifar10_takes_the_device_as_its_argument():
    cpu, gpu = (load_config(f"{ROOT}/configs/cifar10.py{argument}") for argument in (":cpu", ":gpu"))
    assert cpu == load_config(f"{ROOT}/configs/cifar10.py")
    assert gpu.train.duration == "200 epochs"
    model = create_model(gpu.model.name, **model_overrides(gpu))
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
    assert parameter_count(params) <= 4_000_000
    with pytest.raises(UserError, match=r"takes one of cpu, gpu, cct_gpu, vit, .*, cct as its argument, not 'tpu'"):
        load_config(f"{ROOT}/configs/cifar10.py:tpu")


@pytest.mark.parametrize("name", SMALL)
def test_the_small_models_of_cifar10_are_of_one_size_and_differ_in_the_model_alone(name):
    config, plain = (resolve(load_config(f"{ROOT}/configs/cifar10.py:{model}")) for model in (name, "vit"))
    model = create_model(config.model.name, **model_overrides(config), num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
    assert 0.5e6 < parameter_count(variables["params"]) < 0.75e6
    assert model_flops(model, variables, (32, 32)).flops < 0.12e9
    other = {key for key, value in flatten(config).items() if flatten(plain).get(key) != value}
    distillation = {"distill.place", "distill.kind", "distill.temperature"}
    assert {key for key in other if not key.startswith("model.")} == (distillation if name == "deit" else set())


def test_a_distilled_recipe_wants_its_teacher():
    for spec, said in (
        ("cifar10.py:deit", r"kind is set to 'soft'"),
        ("deit_s16.py:distilled", r"place is set to 'token'"),
    ):
        config = resolve(load_config(f"{ROOT}/configs/{spec}"))
        assert architecture(config.model.name).module is DistilledVisionTransformer
        with pytest.raises(UserError, match=rf"distill\.{said}, but distill\.teacher names no teacher"):
            check_distill(config)


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ("deit_s16.py", ("adamw", 1e-3, 1024, "300 epochs", 0.05, 3, 0.8, 1.0, 0.25, 0.1)),
        ("deit3_s16.py", ("lamb", 4e-3, 2048, "800 epochs", 0.05, 3, 0.8, 1.0, 0.0, 0.0)),
        ("swin_t.py", ("adamw", 1e-3, 1024, "300 epochs", 0.05, 1, 0.8, 1.0, 0.25, 0.1)),
        ("convnext_t.py", ("adamw", 4e-3, 4096, "300 epochs", 0.05, 1, 0.8, 1.0, 0.25, 0.1)),
        ("resnet50.py", ("lamb", 8e-3, 2048, "100 epochs", 0.02, 1, 0.1, 1.0, 0.0, 0.0)),
        ("resnet50.py:a2", ("lamb", 5e-3, 2048, "300 epochs", 0.02, 3, 0.1, 1.0, 0.0, 0.0)),
    ],
)
def test_imagenet_recipes_are_the_published_ones(spec, keys):
    c = resolve(load_config(f"{ROOT}/configs/{spec}"))
    optimizer, augment, train = c.optimizer, c.augment, c.train
    found = (optimizer.name, optimizer.lr, train.batch_size, train.duration, optimizer.weight_decay)
    found += (augment.repeats, augment.mixup, augment.cutmix, augment.erasing, train.label_smoothing)
    assert found == keys
    assert (train.loss, train.class_mean) == (("sigmoid", True) if optimizer.name == "lamb" else ("softmax", False))
    assert (c.data.train_split, c.data.eval_split, augment.mixing) == ("train", "validation", "batch")


@pytest.mark.parametrize("name", ["digits", "vit_s16_imagenet", "swin_t", "convnext_t", "deit3_s16"])
def test_an_argument_that_is_not_taken_is_refused(name):
    with pytest.raises(UserError, match=rf"{name}\.py: get_config\(\) takes 0 positional arguments"):
        load_config(f"{ROOT}/configs/{name}.py:something")


def test_folder_takes_the_path_as_its_argument():
    assert load_config(f"{ROOT}/configs/folder.py:/my/images").data.name == "folder:/my/images"
    with pytest.raises(UserError, match=r"folder\.py: get_config\(\) missing 1 required positional argument: 'path'"):
        load_config(f"{ROOT}/configs/folder.py")
