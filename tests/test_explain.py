"""The command that shows what a model looks at: its files, and how it ends."""

import re

import numpy as np
import pytest
from PIL import Image

from tests.explanation.examples import loaded
from vit_jax.explain import main
from vit_jax.explanation.drawings import DRAWINGS
from vit_jax.pretrained.save import save_weights

NASTY = "a<b>&'\"c.png"
OF_MODEL = {name for name, drawing in DRAWINGS.items() if drawing.of_model}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of a ViT with ten classes for digits, a Swin and a ConvNeXt."""
    folder = tmp_path_factory.mktemp("explain")
    models = {"vit": loaded("vit", (8, 8), pool="gap", num_classes=10, patch_size=(2, 2))}
    models |= {family: loaded(family) for family in ("swin", "convnext")}
    for family, model in models.items():
        save_weights(model.weights, folder / family, "vit_jax")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("cat.png", "cat.jpg", "index.png", NASTY):
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(capsys, *arguments) -> tuple[int, list[str], list[str]]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def refused(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line and status 1, and returns the line."""
    status, _, err = run(capsys, *arguments)
    assert (status, len(err)) == (1, 1), err
    assert err[0].startswith("vit_jax: ")
    return err[0]


def test_everything_that_a_vit_has(checkpoints, pictures, tmp_path, capsys):
    status, out, err = run(capsys, checkpoints / "vit", pictures / "cat.png", "--no-page", f"--out={tmp_path}")
    assert (status, err) == (0, [])
    expected = {f"cat_{name}.png" for name in DRAWINGS.keys() - OF_MODEL} | {f"{name}.png" for name in OF_MODEL}
    assert {path.name for path in tmp_path.iterdir()} == expected | {"index.html"}
    for name in expected:
        assert min(Image.open(tmp_path / name).size) > 100
    document = (tmp_path / "index.html").read_text()
    assert set(re.findall(r'src="([^"]*)"', document)) == expected
    assert "http" not in document
    assert re.search(r"cat.png: class \d \(\d+\.\d %\), 12 pictures", out[1])
    assert out[-1] == f"written: {tmp_path / 'index.html'} and {len(expected)} files beside it"


def test_interactive_pages_of_each_image_and_of_two_are_written_and_linked(checkpoints, pictures, tmp_path, capsys):
    arguments = ["--method=similarity", "--place=1,1", "--class=class 3", f"--out={tmp_path}"]
    status, _, _ = run(capsys, checkpoints / "vit", pictures / "cat.png", pictures / "index.png", *arguments)
    assert status == 0
    document = (tmp_path / "index.html").read_text()
    for name in ("cat.html", "index_2.html", "compare.html"):
        assert (tmp_path / name).stat().st_size > 1000
        assert f'href="{name}"' in document


def test_names_that_are_alike_or_would_do_harm(checkpoints, pictures, tmp_path, capsys):
    status, _, _ = run(capsys, checkpoints / "vit", pictures, "--method=patches", "--no-page", f"--out={tmp_path}")
    assert status == 0
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"a_b_c_patches.png", "cat_patches.png", "cat_2_patches.png", "index_2_patches.png"}
    document = (tmp_path / "index.html").read_text()
    assert "<b>" not in document
    assert "a&lt;b&gt;&amp;&#x27;&quot;c.png" in document


def test_what_a_model_has_not_is_said(checkpoints, pictures, tmp_path, capsys):
    status, out, _ = run(capsys, checkpoints / "convnext", pictures / "cat.png", f"--out={tmp_path}")
    assert status == 0
    notes = [line for line in out if line.startswith("  note: ")]
    assert [line.split(": ")[2] for line in notes if "not drawn" in line] == [
        *("attention", "rollout", "flow", "attention_gradient", "relevance", "heads", "distance", "positions"),
    ]
    assert any("no interactive page" in line for line in notes)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {f"cat_{name}.png" for name in ("grad_cam", "patches", "features", "pca", "similarity")} | {
        "filters.png"
    }
    assert "not drawn: rollout" in (tmp_path / "index.html").read_text()


def test_a_swin_shows_its_windows(checkpoints, pictures, tmp_path, capsys):
    arguments = ["--method=heads,attention", "--layer=stage_0/block_1", "--place=2,4", "--no-page", f"--out={tmp_path}"]
    status, _, err = run(capsys, checkpoints / "swin", pictures / "cat.png", *arguments)
    assert (status, err) == (0, [])
    assert {path.name for path in tmp_path.glob("*.png")} == {"cat_heads.png", "cat_attention.png"}


def test_faithfulness_is_a_table(checkpoints, tmp_path, capsys):
    arguments = ["--faithfulness=digits:12", "--method=attention,rollout,relevance", f"--out={tmp_path}"]
    status, out, _ = run(capsys, checkpoints / "vit", *arguments)
    assert status == 0
    assert out[1] == "probability of the true class as patches are replaced by the mean colour, 12 images of digits:"
    rows = {line.split()[0]: line for line in out[3:7]}
    assert rows.keys() == {"attention", "rollout", "relevance", "random"}
    assert all(re.search(r" 0\.\d{4} ± 0\.\d{4} ", line) for line in rows.values())
    assert (tmp_path / "faithfulness.png").exists()


def test_faithfulness_of_all_methods_that_there_are(checkpoints, capsys):
    status, out, _ = run(capsys, checkpoints / "vit", "--faithfulness=digits:2", "--method=all")
    assert status == 0
    assert len(out) == 3 + 7


@pytest.mark.parametrize(
    ("family", "arguments", "line"),
    [
        ("vit", ["--method=rolout"], "there is no method 'rolout' (did you mean 'rollout'?)"),
        ("vit", ["--method=attention", "--layer=7"], "has layers 0 to 1 here (block_0 to block_1), no layer 7"),
        ("vit", ["--method=attention", "--layer=block_9"], "has no layer 'block_9' here (did you mean"),
        ("vit", ["--method=attention", "--head=2"], "block_1 has heads 0 to 1, no head 2"),
        ("vit", ["--class=class 11"], "has no class 'class 11'"),
        ("vit", ["--class=10"], "has classes 0 to 9, no class 10"),
        ("vit", ["--method=rollout", "--head=1"], "--head means nothing to rollout"),
        ("vit", ["--method=rollout", "--class=1"], "--class means nothing to rollout, which explain no class"),
        ("vit", ["--place=3"], "must be a row and a column counted from 0, such as 3,5, not '3'"),
        ("vit", ["--layer"], "expected one argument"),
        ("convnext", ["--method=attention"], "holds a ConvNeXt, which has no attention"),
        ("swin", ["--method=rollout"], "the layers of a SwinTransformer attend in windows"),
    ],
)
def test_mistakes_end_in_one_line(family, arguments, line, checkpoints, pictures, tmp_path, capsys):
    assert line in refused(
        capsys, checkpoints / family, pictures / "cat.png", "--no-page", f"--out={tmp_path}", *arguments
    )


def test_files_and_folders_that_are_not_as_they_must_be(checkpoints, pictures, tmp_path, capsys):
    file = tmp_path / "x.png"
    file.write_text("no picture")
    assert f"cannot read {file}" in refused(capsys, checkpoints / "vit", file, f"--out={tmp_path / 'out'}")
    assert "no such file" in refused(capsys, checkpoints / "vit", tmp_path / "y.png", f"--out={tmp_path}")
    image = pictures / "cat.png"
    assert f"--out={file} is a file, not a folder" in refused(capsys, checkpoints / "vit", image, f"--out={file}")
    assert "--out=DIR is missing" in refused(capsys, checkpoints / "vit", image)
    assert "nothing to explain" in refused(capsys, checkpoints / "vit", f"--out={tmp_path}")
    assert "--class means nothing to --faith" in refused(
        capsys, checkpoints / "vit", "--faithfulness=digits", "--class=1"
    )
    assert "has 5 classes, the data 10" in refused(capsys, checkpoints / "swin", "--faithfulness=digits:5")
