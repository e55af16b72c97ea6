"""The command that says what is in pictures: its output, its files, and how it ends."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from tests.pretrained.examples import arrays_of, npz, small_weights
from vit_jax import load_model
from vit_jax.inference import prediction_report
from vit_jax.inference.prediction_report import Report
from vit_jax.predict import main
from vit_jax.pretrained.save import save_weights

NAMES = ["2.png", "10.jpg", "a b/new\nline.png", "a b/ä.webp"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict") / "checkpoint"
    save_weights(small_weights(gelu="exact"), folder, "timm")
    return str(folder)


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four pictures, and a text file that is none."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (folder / "a b").mkdir()
    for name in NAMES:
        picture = generator.integers(0, 256, (20, 14, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / name, quality=95)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def expected(model, pictures):
    """The probabilities of the four pictures, in the order of `NAMES`."""
    return model.predict([pictures / name for name in NAMES])


def run(capsys, *arguments) -> tuple[int, str, list[str]]:
    """Runs the command and returns its status, its output and the lines of its messages."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


def refused(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line, status 1 and no output, and returns the line."""
    status, out, err = run(capsys, *arguments)
    assert (status, out, len(err)) == (1, "", 1), err
    assert err[0].startswith("vit_jax: ")
    return err[0]


def test_table(checkpoint, pictures, expected, capsys):
    status, out, err = run(capsys, checkpoint, pictures, "--top=2")
    assert status == 0
    assert err == [f"{checkpoint}: vit, images seen at 8x8 pixels"]
    lines = out.splitlines()
    shown = [name if name.isprintable() else repr(name) for name in (str(pictures / name) for name in NAMES)]
    assert lines[::3] == shown
    for i, row in enumerate(expected):
        best = np.argsort(row)[::-1][:2]
        assert lines[3 * i + 1 : 3 * i + 3] == [f"  {100 * row[label]:5.1f} %  class {label}" for label in best]


@pytest.mark.parametrize("options", [[], ["--batch_size=1"], ["--batch_size", "3"]])
def test_json_holds_all_classes_for_any_batch_size(options, checkpoint, pictures, expected, capsys):
    status, out, _ = run(capsys, checkpoint, pictures, "--format=json", "--top=100", *options)
    assert status == 0
    records = json.loads(out)
    assert [record["path"] for record in records] == [str(pictures / name) for name in NAMES]
    for record, row in zip(records, expected, strict=True):
        said = {one["label"]: one["probability"] for one in record["classes"]}
        np.testing.assert_allclose([said[i] for i in range(5)], row, rtol=1e-4, atol=1e-6)
        assert all(one["name"] == f"class {one['label']}" for one in record["classes"])


def test_csv(checkpoint, pictures, expected, capsys):
    status, out, _ = run(capsys, checkpoint, pictures, "--format=csv", "--top=1")
    assert status == 0
    rows = list(csv.reader(io.StringIO(out, newline="")))
    assert rows[0] == ["path", "class", "probability"]
    assert [row[:2] for row in rows[1:]] == [
        [str(pictures / name), f"class {row.argmax()}"] for name, row in zip(NAMES, expected, strict=True)
    ]


def test_without_class_names_their_numbers_are_said(pictures, tmp_path, capsys):
    file = npz(tmp_path, arrays_of(small_weights(), "google", tmp_path))
    status, out, _ = run(capsys, file, pictures / NAMES[0], "--top=5", "--format=json")
    assert status == 0
    assert sorted(one["name"] for one in json.loads(out)[0]["classes"]) == ["0", "1", "2", "3", "4"]


def test_files_that_cannot_be_read_are_named_and_counted(checkpoint, pictures, capsys, tmp_path):
    (tmp_path / "cut.jpg").write_bytes((pictures / NAMES[1]).read_bytes()[:300])
    (tmp_path / "dead.png").symlink_to("nowhere")
    files = [pictures / NAMES[0], pictures / "notes.txt", tmp_path, pictures / NAMES[2]]
    status, out, err = run(capsys, checkpoint, *files, "--format=csv", "--batch_size=1")
    assert status == 1
    assert [row[0] for row in csv.reader(io.StringIO(out))][1:] == [str(files[0]), str(files[3])]
    assert err[1].startswith(f"vit_jax: cannot read {files[1]}: not a readable image")
    assert err[2].startswith(f"vit_jax: cannot read {tmp_path / 'cut.jpg'}: not a readable image")
    assert err[3] == f"vit_jax: cannot read {tmp_path / 'dead.png'}: No such file or directory"
    assert err[4:] == ["vit_jax: 3 of 5 files could not be read"]


def test_no_file_can_be_read(checkpoint, pictures, capsys, tmp_path):
    target = tmp_path / "x.npz"
    options = ["--format=json", f"--embeddings={target}"]
    status, out, err = run(capsys, checkpoint, pictures / "notes.txt", *options)
    assert (status, json.loads(out)) == (1, [])
    assert err[-2:] == [
        f"vit_jax: {target} was not written: no file could be read",
        "vit_jax: 1 of 1 files could not be read",
    ]
    assert not target.exists()


def test_embeddings_beside_predictions(checkpoint, model, pictures, capsys, tmp_path):
    target = tmp_path / "new folder" / "x.npz"
    status, out, err = run(capsys, checkpoint, pictures, "--top=1", f"--embeddings={target}", "--batch_size=3")
    assert status == 0
    assert len(out.splitlines()) == 4
    assert err[-1] == f"written: {target} (4 embeddings of 16 numbers)"
    with np.load(target, allow_pickle=False) as stored:
        assert stored["paths"].tolist() == [str(pictures / name) for name in NAMES]
        np.testing.assert_allclose(stored["embeddings"], model.embed(stored["paths"].tolist()), rtol=1e-4, atol=1e-5)


def test_a_model_without_classes_gives_embeddings_alone(pictures, capsys, tmp_path):
    save_weights(small_weights(num_classes=0, gelu="exact"), tmp_path / "bare", "timm")
    line = refused(capsys, tmp_path / "bare", pictures)
    assert line.endswith("bare has no classifier; --embeddings=FILE.npz writes its vectors")
    status, out, err = run(capsys, tmp_path / "bare", pictures, f"--embeddings={tmp_path / 'x.npz'}")
    assert (status, out) == (0, "")
    assert "  note: it has no classifier; only embeddings are written" in err
    assert np.load(tmp_path / "x.npz")["embeddings"].shape == (4, 16)


def test_flip(checkpoint, model, pictures, capsys):
    views = np.stack([model.view(pictures / name) for name in NAMES])
    logits = [model.logits(model.preprocessing.normalised(views[:, :, ::turn])) for turn in (1, -1)]
    expected = np.max(sum(softmax(one.astype(np.float64), axis=-1) for one in logits) / 2, axis=-1)
    status, out, _ = run(capsys, checkpoint, pictures, "--flip", "--format=json", "--top=1")
    assert status == 0
    said = [record["classes"][0]["probability"] for record in json.loads(out)]
    assert said == pytest.approx(expected.tolist(), rel=1e-4)


def test_image_size_type_and_fields(checkpoint, pictures, capsys):
    picture = pictures / NAMES[0]
    answers = {}
    for options in ([], ["--image_size=16"], ["--dtype=bfloat16"], ["--model.dtype", "bfloat16"], ["--model.heads=4"]):
        status, out, err = run(capsys, checkpoint, picture, "--format=json", *options)
        assert status == 0
        assert ("16x16" in err[0]) == (options == ["--image_size=16"])
        answers[tuple(options)] = out
    assert answers.pop(("--model.dtype", "bfloat16")) == answers[("--dtype=bfloat16",)]
    assert len(set(answers.values())) == 4


def test_merged_tokens(checkpoint, model, pictures, capsys, tmp_path):
    answers = {}
    for option in ("--merge-tokens=0", "--merge-tokens=1", "--merge_tokens=1", "--model.merge_tokens=1"):
        status, out, err = run(capsys, checkpoint, pictures / NAMES[0], "--format=json", "--top=5", option)
        assert status == 0
        assert any("each block merges up to 1 tokens" in line for line in err) == (not option.endswith("0"))
        answers[option] = [(one["label"], one["probability"]) for one in json.loads(out)[0]["classes"]]
    plain, *merged = (np.array(sorted(one)) for one in answers.values())
    np.testing.assert_allclose(plain[:, 1], model.predict(pictures / NAMES[0])[0], rtol=1e-4)
    np.testing.assert_array_equal(merged[0], merged[1])
    np.testing.assert_array_equal(merged[0], merged[2])
    expected = load_model(checkpoint, merge_tokens=1).predict(pictures / NAMES[0])[0]
    np.testing.assert_allclose(merged[0][:, 1], expected, rtol=1e-4)
    assert np.abs(merged[0] - plain).max() > 1e-4
    save_weights(small_weights("mixer"), tmp_path / "mixer", "vit_jax")
    line = refused(capsys, tmp_path / "mixer", pictures, "--merge-tokens=1")
    assert line.endswith("mixer holds a Mixer, whose tokens cannot be merged; leave merge_tokens out")


def test_an_answer_that_is_no_number_is_said(pictures, capsys, tmp_path):
    arrays = arrays_of(small_weights(), "google", tmp_path)
    broken = npz(tmp_path, {**arrays, "head/bias": np.full(5, np.nan, np.float32)})
    status, out, err = run(capsys, broken, pictures, "--format=json", "--top=1")
    assert status == 1
    assert [record["classes"][0]["probability"] for record in json.loads(out, parse_constant=pytest.fail)] == [None] * 4
    assert err[-1].startswith("vit_jax: of 4 images the answer is no number")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "no such file or folder: nowhere.jpg"),
        (["2.png", "empty"], "empty holds no images"),
        ([], "IMAGE|FOLDER"),
        (["2.png", "--top=0"], "--top"),
        (["2.png", "--batch_size=-1"], "--batch_size"),
        (["2.png", "--format=xml"], "--format"),
        (["2.png", "--colour"], "--colour"),
        (["2.png", "--image_size=wide"], "--image_size"),
        (["2.png", "--dtype=float32", "--model.dtype=bfloat16"], "contradict"),
        (["2.png", "--merge-tokens=1", "--model.merge_tokens=2"], "contradict"),
        (["2.png", "--merge-tokens=1.5"], "--merge_tokens"),
        (["2.png", "--model.heads"], "lacks its value"),
        (["2.png", "--embeddings=x.csv"], ".npz"),
        (["-2.png"], "write ./-2.png"),
    ],
)
def test_mistakes_are_said_before_the_model_is_loaded(arguments, said, pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("2.png", "-2.png"):
        (tmp_path / name).write_bytes((pictures / "2.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, "no checkpoint", *arguments)


def test_mistakes_about_the_model(checkpoint, pictures, capsys, tmp_path):
    assert "no such file" in refused(capsys, tmp_path / "nowhere.npz", pictures)
    assert "no field 'colour'" in refused(capsys, checkpoint, pictures, "--model.colour=2")
    assert "not a multiple of patch" in refused(capsys, checkpoint, pictures, "--image_size=9")


def test_names_that_begin_with_a_dash_come_after_two(checkpoint, pictures, tmp_path, monkeypatch, capsys):
    (tmp_path / "-2.png").write_bytes((pictures / "2.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    for arguments in (["./-2.png"], ["--", "-2.png"], [str(pictures / "2.png"), "--top=1", "--", "-2.png"]):
        status, out, _ = run(capsys, checkpoint, "--format=csv", *arguments)
        assert status == 0
        assert out.splitlines()[-1].partition(",")[0] in ("-2.png", "./-2.png")


@pytest.mark.parametrize("embeddings", [False, True])
def test_a_reader_who_has_seen_enough_ends_it_quietly(embeddings, checkpoint, pictures, tmp_path, monkeypatch, capsys):
    """As `| head -1`; embeddings that were wanted as well are not lost without a word."""
    target = tmp_path / "x.npz"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        options = [f"--embeddings={target}"] if embeddings else []
        status = main([checkpoint, str(pictures), "--batch_size=1", *options])
    lines = capsys.readouterr().err.splitlines()[1:]
    if embeddings:
        assert (status, lines) == (1, [f"vit_jax: the output was closed before the end; {target} was not written"])
    else:
        assert (status, lines) == (0, [])
    assert not target.exists()


@pytest.mark.parametrize("unreadable", [False, True])
def test_ctrl_c(unreadable, checkpoint, pictures, tmp_path, monkeypatch, capsys):
    """The signal comes while the first file is looked at; no other batch follows."""
    target, handler = tmp_path / "x.npz", signal.getsignal(signal.SIGINT)
    files = [pictures / "notes.txt" if unreadable else pictures / NAMES[0]] * 1000

    class Interrupted(Report):
        def run(self, *arguments):
            signal.raise_signal(signal.SIGINT)
            return super().run(*arguments)

    monkeypatch.setattr(prediction_report, "Report", Interrupted)
    status, out, err = run(capsys, checkpoint, *files, "--batch_size=2", f"--embeddings={target}")
    assert (status, out) == (130, "")
    assert err[1:] == ["interrupted; the output is incomplete, and no embeddings were written"]
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_the_command_itself(checkpoint, pictures):
    command = [sys.executable, "-m", "vit_jax.predict", checkpoint, str(pictures / NAMES[0]), "--top=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(pictures / NAMES[0]))
    assert done.stdout.count("\n") == done.stderr.count("\n") == 1
