"""The command that turns one format's weights into another's."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pretrained.examples import arrays_of, npz, same_params, small_weights, torch_folder
from vit_jax.convert import main
from vit_jax.pretrained.load import load_weights


@pytest.fixture
def google(tmp_path):
    return npz(tmp_path, arrays_of(small_weights(), "google", tmp_path))


def succeeds(capsys, *arguments) -> list[str]:
    """Runs the command, checks that it ends well, and returns the lines that it prints."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    assert "vit_jax:" not in captured.err
    return captured.out.splitlines()


def fails(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line and status 1, and returns the line."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vit_jax: ")
    assert captured.out == ""
    return captured.err


def test_through_all_formats_and_back(google, tmp_path, capsys):
    count = sum(array.size for array in small_weights().params.values())
    last = google
    for kind in ("timm", "huggingface", "vit_jax", "google"):
        out = tmp_path / (f"{kind}.npz" if kind == "google" else kind)
        lines = succeeds(capsys, last, out, f"--to={kind}")
        assert lines[0].endswith(f": vit, {count:,} parameters, 5 classes, 8x8 pixels")
        assert lines[0].startswith(str(last))
        assert lines[-1] == f"written: {out} ({kind})"
        last = out
    assert same_params(load_weights(str(last)).params, small_weights().params)
    assert load_weights(str(tmp_path / "vit_jax")).preprocessing.size == (8, 8)


def test_notes_and_what_is_not_used_are_said(tmp_path, capsys):
    arrays = arrays_of(small_weights(), "google", tmp_path) | {"aux/bias": np.ones(3, np.float32)}
    lines = succeeds(capsys, npz(tmp_path, arrays), tmp_path / "out", "--to=timm")
    assert "  not used: aux/bias (unknown)" in lines
    assert any(line.startswith("  note: images will be resized with antialiasing") for line in lines)


def test_heads_that_the_file_does_not_tell(tmp_path, capsys):
    folder = torch_folder(tmp_path, arrays_of(small_weights(gelu="exact"), "timm", tmp_path))
    assert "heads=N" in fails(capsys, folder, tmp_path / "out", "--to=vit_jax")
    assert not (tmp_path / "out").exists()
    for words in (["--model.heads=2"], ["--model.heads", "2"]):
        out = tmp_path / f"out{len(words)}"
        succeeds(capsys, folder, out, "--to=huggingface", *words)
        assert json.loads((out / "config.json").read_text())["num_attention_heads"] == 2


def test_an_image_size_that_the_file_does_not_tell(tmp_path, capsys):
    file = npz(tmp_path, arrays_of(small_weights(size=(8, 12)), "google", tmp_path))
    assert "pixels" not in succeeds(capsys, file, tmp_path / "a", "--to=vit_jax")[0]
    lines = succeeds(capsys, file, tmp_path / "b", "--to=timm", "--image_size=8x12")
    assert lines[0].endswith("8x12 pixels")
    assert load_weights(str(tmp_path / "b")).image_size == (8, 12)
    assert "--image_size" in fails(capsys, file, tmp_path / "c", "--to=timm", "--image_size=wide")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to=timm", "--model.head=2"], "heads"),
        (["--to=timm", "--model.colour=2"], "no field 'colour'"),
        (["--to=timm", "--model.heads=two"], "model.heads must be int"),
        (["--to=timm", "--model.heads"], "lacks its value"),
        (["--to=onnx"], "--to"),
        ([], "--to"),
        (["--to=google"], "out.npz"),
    ],
)
def test_mistakes(arguments, said, google, tmp_path, capsys):
    assert said in fails(capsys, google, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_where_the_weights_go(google, tmp_path, capsys):
    for kind in ("timm", "huggingface", "vit_jax"):
        assert "is a folder, not a file" in fails(capsys, google, tmp_path / "x.safetensors", f"--to={kind}")
    succeeds(capsys, google, tmp_path / "out", "--to=vit_jax")
    assert "holds something already" in fails(capsys, google, tmp_path / "out", "--to=vit_jax")
    assert "no such file" in fails(capsys, tmp_path / "nowhere.npz", tmp_path / "b", "--to=timm")


def test_the_other_gelu_is_another_model_that_is_asked_for(tmp_path, capsys):
    folder = tmp_path / "timm"
    succeeds(
        capsys, npz(tmp_path, arrays_of(small_weights(), "google", tmp_path)), folder, "--to=timm", "--model.gelu=exact"
    )
    assert json.loads((folder / "config.json").read_text())["model_args"]["act_layer"] == "gelu"
    out = tmp_path / "out.npz"
    message = fails(capsys, folder, out, "--to=google")
    assert "gelu='exact', only 'tanh'; --model.gelu=tanh writes it all the same" in message
    succeeds(capsys, folder, out, "--to=google", "--model.gelu=tanh")
    assert same_params(load_weights(str(out)).params, small_weights().params)


def test_what_a_format_lacks_is_said_without_advice_that_does_not_help(tmp_path, capsys):
    folder = torch_folder(tmp_path, arrays_of(small_weights(registers=2), "timm", tmp_path))
    given = ("--model.heads=2", "--model.gelu=tanh")
    message = fails(capsys, folder, tmp_path / "x.npz", "--to=google", *given)
    assert "registers=2, only 0" in message
    assert "--model.registers" not in message
    assert not (tmp_path / "x.npz").exists()


def test_debug_shows_the_traceback(google, tmp_path):
    from vit_jax.errors import UserError

    with pytest.raises(UserError):
        main([str(google), str(tmp_path / "out"), "--to=google", "--debug"])


def test_what_other_libraries_find(google, tmp_path, capsys):
    """The names and shapes of timm and of Hugging Face, PyTorch's layout."""
    succeeds(capsys, google, tmp_path / "timm", "--to=timm")
    succeeds(capsys, google, tmp_path / "hf", "--to=huggingface")
    timm, hf = (load_file(tmp_path / name / "model.safetensors") for name in ("timm", "hf"))
    ours = small_weights().params
    query = ours["encoder/block_1/attention/query/kernel"].reshape(16, 16).T
    np.testing.assert_array_equal(timm["blocks.1.attn.qkv.weight"][:16], query)
    np.testing.assert_array_equal(hf["vit.encoder.layer.1.attention.attention.query.weight"], query)
    np.testing.assert_array_equal(timm["patch_embed.proj.weight"][:, 2, 1, 3], ours["patch_embed/kernel"][1, 3, 2])
