"""ONNX bundles. Without jax2onnx (the extra `onnx`) these tests are skipped."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.inference.bundles import assert_close, bundle, code_of, pictures, run_alone
from tests.pretrained.examples import small_weights
from vit_jax.errors import UserError
from vit_jax.inference import onnx as format
from vit_jax.inference.model import LoadedModel, load_model

pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")

PICTURES = pictures(5)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """An ONNX bundle and the live model."""
    return bundle(tmp_path_factory.mktemp("bundle") / "onnx", "onnx", count=7)


def test_it_is_the_model_for_any_batch(program):
    folder, live = program
    loaded = load_model(folder)
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
    expected = live.logits(x)
    for batch in (1, 3, 32):
        assert_close(loaded.logits(x[:batch]), expected[:batch])
    assert_close(loaded.predict(PICTURES), live.predict(PICTURES))
    assert loaded.class_names == live.class_names
    assert json.loads((folder / "verification.json").read_text())["batches"] == [1, 3]


def test_its_names_and_its_opset(program):
    import onnx

    model = onnx.load(program[0] / "model.onnx")
    onnx.checker.check_model(model)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", format.OPSET)]
    session = onnxruntime.InferenceSession(program[0] / "model.onnx", providers=["CPUExecutionProvider"])
    described = [(one.name, one.shape, one.type) for one in (*session.get_inputs(), *session.get_outputs())]
    assert described == [("images", ["batch", 8, 8, 3], "tensor(float)"), ("logits", ["batch", 5], "tensor(float)")]
    assert f"opset {format.OPSET}" in (program[0] / "README.md").read_text()


@pytest.mark.parametrize("size", [(2, 8, 12, 3), (2, 8, 8, 1)])
def test_onnxruntime_itself_refuses_another_size(program, size):
    session = onnxruntime.InferenceSession(program[0] / "model.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r"(?s)invalid dimensions for input: images.*Expected: "):
        session.run(None, {"images": np.zeros(size, np.float32)})
    with pytest.raises(UserError, match=r"takes images as float32 \[batch, 8, 8, 3\], not float32 \[2"):
        load_model(program[0]).logits(np.zeros(size, np.float32))


@pytest.mark.parametrize("inside", [False, True])
def test_the_readme_runs_with_onnxruntime_alone(inside, tmp_path):
    folder, live = bundle(tmp_path / "out", "onnx", with_preprocessing=inside)
    Image.fromarray(PICTURES[0]).save(folder / "photo.jpg", "PNG")
    text = run_alone(code_of(folder), folder, tmp_path / "site", "onnxruntime", "numpy", "pillow")
    said = [line.split("  ", 1) for line in text.splitlines()]
    (expected,) = live.predict(PICTURES[0])
    assert [name for _, name in said] == [live.class_names[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([float(value) for value, _ in said], np.sort(expected)[::-1], rtol=0, atol=0.0006)


def test_weights_too_large_for_one_file_lie_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(format, "WEIGHTS_BESIDE", 1000)
    weights = small_weights(width=64, mlp_dim=256)
    folder, live = bundle(tmp_path / "out", "onnx", weights)
    assert (folder / "model.onnx.data").stat().st_size > 2 * sum(array.size for array in weights.params.values())
    assert_close(load_model(folder).predict(PICTURES), live.predict(PICTURES))
    (folder / "model.onnx.data").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.onnx\.data is damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("vit", {"pool": "map", "qk_norm": True, "registers": 2, "mlp": "swiglu", "layer_scale": 0.1}),
        ("vit", {"pool": "gap", "position": "sincos2d", "pre_logits": 7, "scan_layers": True, "gelu": "exact"}),
        ("vit", {"patch_embed": "cct", "pool": "sequence", "qkv_bias": False, "norm_epsilon": 1e-5}),
        ("vit_distilled", {}),
        ("mixer", {}),
    ],
)
def test_other_models(model, fields, tmp_path):
    folder, live = bundle(tmp_path / "out", "onnx", small_weights(model, **fields))
    assert_close(load_model(folder).predict(PICTURES), live.predict(PICTURES))


def test_what_jax2onnx_cannot_express_is_one_line(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise NotImplementedError("no plugin for 'erfcx'\nand more")

    monkeypatch.setattr("jax2onnx.to_onnx", unknown)
    with pytest.raises(UserError, match=r"cannot express this VisionTransformer: no plugin for 'erfcx'; --format=sta"):
        bundle(tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_merged_tokens(pool, tmp_path):
    """16 patches, of which 3 are merged in each of two blocks."""
    fields = {"pool": pool, "registers": 1, "patch_size": (2, 2)}
    folder, live = bundle(tmp_path / "out", "onnx", small_weights(**fields, merge_tokens=3))
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    expected, loaded = live.logits(x), load_model(folder)
    for batch in (1, 5):
        assert_close(loaded.logits(x[:batch]), expected[:batch])
    unmerged = LoadedModel(small_weights(**fields)).logits(x)
    assert np.abs(unmerged - expected).max() > 1e-3 * np.ptp(expected)
