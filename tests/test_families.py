"""Every family goes the whole way: a training step in both types on one and eight devices, bundles, predictions."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.inference.bundles import assert_close, pictures
from tests.training.examples import start
from vit_jax import export, predict
from vit_jax.config import default_config, resolve
from vit_jax.data.preprocessing import Preprocessing
from vit_jax.inference.model import LoadedModel, load_model
from vit_jax.models import create_model
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.weights import Weights, make_weights, parameter_shapes
from vit_jax.training.experiment import build
from vit_jax.training.sharding import batch_sharding, place

pytestmark = pytest.mark.slow

SIZE = (32, 32)
ENCODER = {"patch_size": (8, 8), "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32}
MOBILE = {"widths": (8, 8, 8, 8, 8), "transformer_widths": (0, 0, 8, 8, 8), "stem_width": 8, "last_width": 8}
FAMILIES = {
    "vit": ("vit", {**ENCODER, "pool": "map", "registers": 2}),
    "deit": ("vit_distilled", ENCODER),
    "deit3": ("vit", {**ENCODER, "layer_scale": 0.5, "cls_position": False}),
    "cct": ("cct_cifar_2_3x2", {"width": 16, "heads": 2, "mlp_dim": 32}),
    "hybrid": ("hybrid", {**ENCODER, "patch_size": (2, 2), "stages": (1,), "stem_width": 32}),
    "beit": ("beit", ENCODER),
    "swin": ("swin", {"depths": (2, 2), "widths": (8, 16), "heads": (2, 2), "window_size": 3}),
    "swinv2": ("swinv2", {"depths": (2, 2), "widths": (8, 16), "heads": (2, 2), "window_size": 3}),
    "convnext": ("convnext", {"depths": (1, 2), "widths": (8, 16), "layer_scale": 0.5}),
    "convnextv2": ("convnext", {"depths": (1, 2), "widths": (8, 16), "grn": True, "layer_scale": None}),
    "resnet-basic": ("resnet", {"depths": (1, 2), "widths": (8, 16), "stem_width": 8, "bottleneck": False}),
    "resnet-bottleneck": ("resnet", {"depths": (1, 2), "widths": (4, 8), "stem_width": 8}),
    "mobilevit": ("mobilevit", {**MOBILE, "heads": 2}),
    "efficientformer": ("efficientformer", {"depths": (1, 1), "widths": (8, 16), "heads": 2, "head_dim": 8}),
    "mixer": ("mixer", {"patch_size": (8, 8), "width": 16, "depth": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 24}),
}
"""Small models of each family: the name of the architecture, and its fields."""


def stepped(family: str, dtype: str, devices: int) -> tuple[list[float], list[np.ndarray]]:
    """Returns the losses of two steps on the same digits, and the parameters after them."""
    name, fields = FAMILIES[family]
    config = default_config()
    config.model.name, config.model.dtype = name, dtype
    config.model.update(fields)
    config.data.image_size = SIZE[0]
    # At the end of a MobileViT batch norms see one place of each image: of few images they make rounding large.
    batch, lr = (64, 3e-4) if family == "mobilevit" else (16, 0.01)
    config.train.duration, config.train.batch_size = "3 steps", batch
    config.schedule.warmup = "0 steps"
    # AdamW would make whole steps of gradients that are rounding alone: those of what a batch norm takes out again.
    config.optimizer.name, config.optimizer.lr = "sgd", lr
    config.mesh.data = devices
    experiment = build(resolve(config), devices=jax.devices()[:devices])
    state, losses = start(experiment), []
    batch = place(experiment.train_batches()(0).batch, batch_sharding(experiment.mesh))
    step = experiment.train_step.lower(state, batch).compile()
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.tree.leaves(jax.device_get(state.params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_on_one_and_eight_devices_have_equal_losses(family, dtype):
    (alone, params), (together, _) = (stepped(family, dtype, devices) for devices in (1, 8))
    assert all(np.isfinite(leaf).all() for leaf in params)
    assert alone[0] != alone[1]
    # Statistics of batches are means over devices: in bfloat16 what is normalised by them rounds otherwise.
    np.testing.assert_allclose(alone, together, rtol=1e-5 if dtype == "float32" else 2e-3)


def weights_of(family: str) -> Weights:
    """Returns random weights of a small model of a family."""
    name, fields = FAMILIES[family]
    fields = {**fields, "num_classes": 5}
    params, generator = {}, np.random.default_rng(0)
    for key, shape in sorted(parameter_shapes(create_model(name, **fields), SIZE).items()):
        if key.endswith(("/scale", "/var")):
            values = generator.uniform(0.5, 1.5, shape)
        else:  # kernels keep the size of what passes through, so that nothing comes to stand still on its way
            values = generator.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
        params[key] = values.astype(np.float32)
    names = [f"class {i}" for i in range(5)]
    return make_weights(name, fields, params, SIZE, Preprocessing(SIZE, 36), "random", names)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i, picture in enumerate(pictures(4)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def predicted(checkpoint, photographs, capsys) -> np.ndarray:
    """Returns the probabilities that the command prints, image by image, class by class."""
    assert predict.main([str(checkpoint), str(photographs), "--format=json", "--top=5"]) == 0
    found = [
        {one["label"]: one["probability"] for one in row["classes"]} for row in json.loads(capsys.readouterr().out)
    ]
    return np.array([[row[i] for i in range(5)] for row in found])


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bundles_predict_what_the_live_model_does(family, kind, photographs, tmp_path, capsys):
    if kind == "onnx":
        for package in ("jax2onnx", "onnxruntime"):
            pytest.importorskip(package, reason="needs the extra 'onnx'")
    weights = weights_of(family)
    save_weights(weights, tmp_path / "live", "vit_jax")
    assert export.main([str(tmp_path / "live"), f"--format={kind}", f"--out={tmp_path / 'bundle'}"]) == 0
    capsys.readouterr()
    x = np.random.default_rng(0).normal(size=(3, *SIZE, 3)).astype(np.float32)
    assert_close(load_model(tmp_path / "bundle").logits(x), LoadedModel(weights).logits(x))
    expected = predicted(tmp_path / "live", photographs, capsys)
    assert np.ptp(expected, axis=0).max() > 1e-3  # images are told apart
    np.testing.assert_allclose(predicted(tmp_path / "bundle", photographs, capsys), expected, atol=1e-5)
