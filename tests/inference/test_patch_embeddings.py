"""Every patch embedding as a bundle: the compiled program, which draws nothing at random, is the live model."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from tests.inference.bundles import assert_close, bundle
from tests.pretrained.examples import small_weights
from vit_jax.inference.model import load_model

KINDS = {
    "overlapping": {"patch_size": (4, 4), "patch_stride": (2, 2)},
    "conv_stem": {"patch_size": (4, 4)},
    "hybrid": {"patch_size": (4, 4), "resnet": "resnet18_cifar", "resnet_stage": 1},
    "positional": {"position": "none", "registers": 1},
    "adaptive": {"patch_size": (2, 2), "patch_tokens": 10, "patch_dropout": 0.5},
    "flexible": {"patch_size": (2, 2), "patch_sizes": (2, 4)},
    "linear": {"pool": "multi_cls", "class_tokens": 2, "patch_dropout": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_model_for_any_batch(kind, format, tmp_path):
    if format == "onnx" and not all(map(importlib.util.find_spec, ("jax2onnx", "onnxruntime"))):
        pytest.skip("needs the extra 'onnx'")
    weights = small_weights(patch_embed=kind, **KINDS[kind])
    params = {name: abs(array) + 0.5 if name.endswith("/var") else array for name, array in weights.params.items()}
    weights = dataclasses.replace(weights, params=params)
    folder, live = bundle(tmp_path / format, format, weights, count=3)
    loaded = load_model(folder)
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    expected = live.logits(x)
    for batch in (1, 5):
        assert_close(loaded.logits(x[:batch]), expected[:batch])
