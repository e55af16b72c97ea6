"""Every kind of attention as a program that is run without this package."""

import numpy as np
import pytest

from tests.inference.bundles import assert_close, bundle
from tests.pretrained.examples import arrays_of, small_weights
from vit_jax.errors import UserError
from vit_jax.inference.model import load_model

FIELDS = {"patch_size": (2, 2), "registers": 1, "width": 16}
"""A grid of 4x4 patches, cls and a register."""

KINDS = [
    {"attention": "relative", "position": "rope2d"},
    {"attention": "local", "attention_window": 3, "attention_shift": True, "position": "relative"},
    {"attention": "axial", "position": "rope2d"},
    {"attention": "sparse", "attention_window": 2, "attention_stride": 2, "position": "relative"},
    {"attention": "topk", "attention_topk": 5, "position": "sinusoidal1d"},
    {"attention": "linear", "position": "rope2d"},
    {"attention": "performer", "attention_features": 16, "position": "rope2d"},
]


def check(kind, fields, folder):
    """Writes a program, and compares its answers for any batch with those of the model."""
    folder, live = bundle(folder, kind, small_weights(**FIELDS, **fields))
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    expected, loaded = live.logits(x), load_model(folder)
    assert np.ptp(expected, axis=0).min() > 0.01
    for batch in (1, 3):
        assert_close(loaded.logits(x[:batch]), expected[:batch])


@pytest.mark.parametrize("fields", KINDS, ids=lambda fields: fields["attention"])
def test_onnx(fields, tmp_path):
    pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")
    check("onnx", fields, tmp_path / "out")


@pytest.mark.parametrize("fields", [KINDS[1], KINDS[6]], ids=lambda fields: fields["attention"])
def test_stablehlo(fields, tmp_path):
    check("stablehlo", fields, tmp_path / "out")


@pytest.mark.parametrize("kind", ["google", "timm", "huggingface"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "local"}, "attention"),
        ({"position": "rope2d"}, "position"),
    ],
)
def test_formats_that_know_full_attention_alone_refuse_the_others(kind, fields, message, tmp_path):
    with pytest.raises(UserError, match=f"cannot express .*{message}"):
        arrays_of(small_weights(**fields), kind, tmp_path)
