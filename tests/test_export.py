"""The command that writes bundles."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.inference.bundles import pictures
from tests.pretrained.examples import arrays_of, npz, small_weights, torch_folder
from vit_jax.errors import UserError
from vit_jax.export import FORMATS, main
from vit_jax.inference.bundle_writer import DTYPES, NAMES
from vit_jax.inference.model import load_model
from vit_jax.inference.verification import STRAYS, compared, photographs
from vit_jax.pretrained.bundle import MODEL_FILES
from vit_jax.pretrained.save import save_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    save_weights(small_weights(), folder, "vit_jax")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, picture in enumerate(pictures(2)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


def succeeds(capsys, *arguments) -> list[str]:
    """Runs the command, checks that it ends well, and returns the lines that it prints."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return captured.out.splitlines()


def fails(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line and status 1, and returns the line."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vit_jax: ")
    assert captured.out == ""
    return captured.err


def test_a_bundle_of_a_run(checkpoint, tmp_path, capsys):
    lines = succeeds(capsys, checkpoint, "--format=stablehlo", f"--out={tmp_path / 'out'}")
    assert lines[0] == f"{checkpoint}: vit, 8x8 pixels, 5 classes"
    assert lines[1].startswith("run on 16 images: differs by at most ")
    assert lines[1].endswith("the same class for 100.0%")
    assert lines[2].startswith(f"written: {tmp_path / 'out'} (stablehlo, 0.1 MB)")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.stablehlo", "preprocessing.json", "labels.txt", "README.md", "verification.json"}
    assert json.loads((tmp_path / "out" / "verification.json").read_text())["batches"] == [1, 3, 12]


def test_a_bundle_of_a_bundle_at_another_size(checkpoint, photos, tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    succeeds(capsys, checkpoint, "--format=safetensors", f"--out={a}", "--images", photos)
    lines = succeeds(capsys, a, "--format=npz", f"--out={b}", "--image-size=8x12", "--images", photos)
    assert "  note: positions are resized from 8x8 to 8x12 pixels, which the preprocessing makes" in lines
    assert json.loads((b / "verification.json").read_text())["images"] == 2
    loaded, expected = load_model(b), load_model(checkpoint, image_size=(8, 12))
    assert loaded.preprocessing == expected.preprocessing
    np.testing.assert_array_equal(loaded.predict(pictures()), expected.predict(pictures()))


def test_what_the_file_does_not_tell(photos, tmp_path, capsys):
    folder = torch_folder(tmp_path, arrays_of(small_weights(gelu="exact"), "timm", tmp_path))
    out = tmp_path / "out"
    assert "heads=N" in fails(capsys, folder, "--format=npz", f"--out={out}")
    given = ("--model.heads=2", "--model.gelu=tanh", "--images", photos)
    lines = succeeds(capsys, folder, "--format=npz", f"--out={out}", *given)
    assert any(line.startswith("  note: no config.json beside it") for line in lines)
    assert load_model(out).module.heads == 2


def test_what_was_not_used_is_said(photos, tmp_path, capsys):
    file = npz(tmp_path, arrays_of(small_weights(), "google", tmp_path) | {"aux/bias": np.ones(3, np.float32)})
    lines = succeeds(capsys, file, "--format=vit_jax", f"--out={tmp_path / 'out'}", "--images", photos)
    assert "  not used: aux/bias (unknown)" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--format"),
        (["--format=pickle"], "--format"),
        (["--format=npz", "--model.heds=2"], "no field 'heds' (did you mean 'heads'?)"),
        (["--format=npz", "--model.dtype=bfloat16"], "given by --dtype"),
        (["--format=npz", "--image-size=10"], "not a multiple of patch"),
        (["--format=npz", "--image-size=wide"], "must be a size such as 224"),
        (["--format=onnx", "--dtype=bfloat16"], "onnxruntime on a CPU takes no bfloat16"),
        (["--format=npz", "--dtype=bfloat16"], "an .npz knows no bfloat16"),
        (["--format=npz", "--with-preprocessing"], "only stablehlo and onnx can hold the preprocessing"),
        (["--format=npz", "--names=huggingface"], "--names=huggingface is for --format=safetensors"),
        (["--format=npz", "--names=timm"], "--names=timm is for --format=safetensors"),
        (["--format=npz", "--images", "nowhere.png"], "no such file or folder"),
        (["--format=npz", "--images", __file__], "cannot read"),
        (["--format=safetensors", "--names=huggingface", "--model.gelu=exact", "--model.pool=gap"], "pool='gap'"),
        (["--format=npz", "--merge-tokens=1"], "--format=npz holds weights only, not merge_tokens=1"),
        (["--format=safetensors", "--model.merge_tokens=1"], "--format=safetensors holds weights only"),
        (["--format=stablehlo", "--merge-tokens=many"], "--merge-tokens"),
        (["--format=stablehlo", "--merge-tokens=-1"], "merge_tokens must be a whole number from 0 up, not -1"),
        (["--format=stablehlo", "--merge-tokens=1", "--model.merge_tokens=2"], "contradict"),
    ],
)
def test_mistakes(arguments, said, checkpoint, tmp_path, capsys):
    assert said in fails(capsys, checkpoint, f"--out={tmp_path / 'out'}", *arguments)
    assert not list(tmp_path.iterdir())


def test_where_a_bundle_goes(checkpoint, tmp_path, capsys):
    assert "holds something already" in fails(capsys, checkpoint, "--format=npz", f"--out={checkpoint}")
    assert "must be a folder on this computer" in fails(capsys, checkpoint, "--format=npz", "--out=gs://bucket/a")
    assert "--out" in fails(capsys, checkpoint, "--format=npz")
    assert "no such file" in fails(capsys, tmp_path / "nowhere.npz", "--format=npz", f"--out={tmp_path / 'a'}")


def test_a_program_is_not_exported_again(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    succeeds(capsys, checkpoint, "--format=stablehlo", f"--out={out}", "--images", photos)
    assert "holds a compiled program" in fails(capsys, out, "--format=onnx", f"--out={tmp_path / 'b'}")


@pytest.mark.parametrize("kind", ["stablehlo", "vit_jax"])
def test_merged_tokens_go_into_the_bundle_and_are_said(kind, checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    given = (f"--format={kind}", f"--out={out}", "--merge_tokens=1", "--images", photos)
    lines = succeeds(capsys, checkpoint, *given)
    assert any(line.startswith("  note: each block merges up to 1 tokens") for line in lines)
    assert "merges up to 1 tokens into others that are like them (token merging" in (out / "README.md").read_text()
    assert json.loads((out / "verification.json").read_text())["merge_tokens"] == 1
    bundled, live, plain = load_model(out), load_model(checkpoint, merge_tokens=1), load_model(checkpoint)
    expected = live.predict(pictures())
    np.testing.assert_allclose(bundled.predict(pictures()), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(plain.predict(pictures()) - expected).max() > 1e-3
    if kind == "stablehlo":
        with pytest.raises(UserError, match="its merge_tokens cannot be changed"):
            load_model(out, merge_tokens=0)
        return
    np.testing.assert_array_equal(load_model(out, merge_tokens=0).predict(pictures()), plain.predict(pictures()))
    assert "holds weights only" in fails(capsys, out, "--format=npz", f"--out={tmp_path / 'b'}")
    succeeds(capsys, out, "--format=npz", f"--out={tmp_path / 'b'}", "--merge-tokens=0", "--images", photos)


def test_packages_that_are_not_installed(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    message = fails(capsys, checkpoint, "--format=onnx", f"--out={tmp_path / 'out'}")
    assert "pip install 'vit_jax[onnx]'" in message
    assert not list(tmp_path.iterdir())


def test_the_choices_are_those_of_the_formats():
    assert tuple(MODEL_FILES) == FORMATS
    assert (DTYPES, NAMES) == (("float32", "bfloat16"), ("timm", "huggingface"))


def test_debug_shows_the_traceback(checkpoint, tmp_path):
    with pytest.raises(UserError):
        main([str(checkpoint), f"--out={tmp_path}", "--format=onnx", "--dtype=bfloat16", "--debug"])


def test_photographs_are_parts_of_several_sizes():
    parts = photographs()
    assert len(parts) == 16
    assert all(part.dtype == np.uint8 and part.std() > 10 for part in parts)
    assert len({part.shape for part in parts}) == 4
    assert len({part.tobytes() for part in parts}) == 16


def test_compared():
    expected = np.array([[0.0, 1.0, 4.0], [3.0, 1.0, 2.0]], np.float32)
    found = expected + np.array([[0, 0, 0], [-2, 0, 0]], np.float32)
    shown = compared(expected, found, 0.25, True, [1, 1])
    assert (shown.max_abs_difference, shown.output_range, shown.tolerance, shown.images) == (2, 4, 1, 2)
    assert (shown.top1_agreement, shown.batches, shown.passed) == (0.5, [1], False)
    assert compared(expected, found, 0.5, True, [2]).passed
    assert not compared(expected, found * np.nan, 0.5, True, [2]).passed
    assert compared(expected, expected, 0.0, False, [2]).top1_agreement is None
    assert (shown.strays, compared(expected, found, 0.5, True, [2]).strays) == (1, 0)


def test_a_few_images_may_stray_where_tokens_are_merged():
    expected = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    for strays, passed in ((2, True), (3, False)):
        found = expected.copy()
        found[:strays] += 1
        shown = compared(expected, found, 1e-4, True, [16], STRAYS)
        assert (shown.strays, shown.passed, shown.max_abs_difference) == (strays, passed, pytest.approx(1))
        assert not compared(expected, found, 1e-4, True, [16]).passed
    found = expected.copy()
    found[0] = np.nan
    assert not compared(expected, found, 1e-4, True, [16], STRAYS).passed
