"""Attention of published implementations, whichever way the model is run."""

import json
import pathlib

import numpy as np
import pytest

from vit_jax.explanation.observation import Observation
from vit_jax.inference.model import load_model

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
CASES = [
    "hf_deit_teacher",
    "hf_dinov2_registers",
    "hf_swin",
    "hf_vit",
    "timm_deit_distilled",
    "timm_vit",
    "timm_vit_gap_reg_layerscale",
    "timm_vit_map_qknorm",
    "timm_vit_nonsquare",
]
FUSED = {"scan_layers": True, "remat": "full", "fused_qkv": True}
"""No block forms attention weights by itself: one scanned block, formed again in the backward pass."""


@pytest.mark.parametrize("case", CASES)
def test_is_the_librarys(case):
    folder = GOLDENS / case
    heads = json.loads((folder / "meta.json").read_text()).get("arguments", {}).get("num_heads")
    fields = ({} if heads is None else {"heads": heads}) | ({"remat": "full"} if case == "hf_swin" else FUSED)
    model = load_model(folder if case.startswith("hf_") else folder / "weights.safetensors", **fields)
    with np.load(folder / "io.npz") as stored:
        expected = [array for name, array in stored.items() if name.startswith("attention")]
        seen = Observation(model, stored["image"])
    expected = list(expected[0]) if len(expected) == 1 else expected
    found = [layer for name, layer in seen.layers.items() if name != "map_pool"]
    if case == "hf_swin":  # of each stage the last block's
        found = [found[sum(seen.module.depths[: i + 1]) - 1] for i in range(seen.module.depth)]
    assert len(found) == len(expected) > 0
    for layer, array in zip(found, expected, strict=True):
        np.testing.assert_allclose(layer.weights.reshape(array.shape), array, atol=1e-5)
