"""The compare command: its formats, its picture, and one line for each mistake."""

import csv
import io
import json
import pathlib

import pytest
from PIL import Image

from tests.comparison.examples import STEPS, workdir
from vit_jax.compare import main


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one config, another config, and a run that is not finished."""
    return [
        workdir(tmp_path, "vit-0", top1=(0.5, 0.70), seed=0),
        workdir(tmp_path, "vit-1", top1=(0.6, 0.80), seed=1),
        workdir(tmp_path, "wide", top1=(0.4, 0.9, 0.85), model__width=32),
        workdir(tmp_path, "short", step=4),
    ]


def test_table(capsys, runs):
    assert main(runs) == 0
    heading, vit, wide, *rest = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[0] == "run"
    assert vit.split()[:2] == ["vit", "2"]
    assert "75.00 ± 7.07" in vit
    assert wide.split()[:2] == ["wide", "1"]
    assert wide.split()[-2:] == ["85.00", "90.00"]
    assert rest == [
        "mean ± standard deviation over the seeds",
        "note: short is left out: it is not finished (at step 4 of 12)",
    ]


def test_markdown(capsys, runs):
    assert main([*runs[:3], "--format=markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| run | seeds | parameters |")
    assert set(lines[1]) == set("| -:")
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_json_holds_everything(capsys, runs):
    assert main([*runs, "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["rows"]
    assert first["runs"] == [{"name": "vit-0", "seed": 0}, {"name": "vit-1", "seed": 1}]
    assert (first["top1"], second["top1"]) == (pytest.approx(0.75), 0.85)
    assert second["top1_std"] is None
    assert [point["top1"] for point in second["curve"]] == [0.4, 0.9, 0.85]
    assert len(found["notes"]) == 1


def test_csv_has_the_rows_and_says_the_notes_elsewhere(capsys, runs):
    assert main([*runs, "--format=csv"]) == 0
    printed = capsys.readouterr()
    first, second = csv.DictReader(io.StringIO(printed.out))
    assert (first["name"], float(first["top1"]), second["top1_std"]) == ("vit", pytest.approx(0.75), "")
    assert "short is left out" in printed.err


def test_rows_of_the_same_name_are_told_apart(capsys, tmp_path):
    same = [workdir(tmp_path / "x", "run"), workdir(tmp_path / "y", "run", model__width=32)]
    assert main([*same, "--format=csv"]) == 0
    assert [row["name"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["x/run", "y/run"]


def damaged(folder: pathlib.Path) -> str:
    """Returns a run whose only checkpoint does not tell what was trained."""
    place = workdir(folder, "damaged")
    (pathlib.Path(place) / "checkpoints" / str(STEPS) / "run" / "metadata").write_bytes(b"\xff")
    return place


def test_a_damaged_run_is_named_and_left_out(capsys, runs, tmp_path):
    place = damaged(tmp_path)
    assert main([place, *runs[:2]]) == 0
    *_, note = capsys.readouterr().out.splitlines()
    assert note.startswith(f"note: {place} is left out: it cannot be read (no checkpoint can be read: ")


def test_damaged_and_unfinished_runs_alone_are_one_line(capsys, runs, tmp_path):
    place = damaged(tmp_path)
    assert main([place, runs[3]]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    assert line.startswith(f"vit_jax: no run is finished: short is at step 4 of 12; {place} cannot be read (")


def test_picture(capsys, runs, tmp_path):
    assert main([*runs[:3], f"--out={tmp_path}/all.png"]) == 0
    assert main([runs[0], f"--out={tmp_path}/one.png"]) == 0
    assert f"picture {tmp_path}/one.png" in capsys.readouterr().err
    several, one = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("all", "one"))
    assert several.size == one.size
    colours = {colour for _, colour in several.getcolors(10**6)}
    assert {(0x1F, 0x77, 0xB4), (0xD9, 0x5F, 0x02)} <= colours
    assert (0xD9, 0x5F, 0x02) not in {colour for _, colour in one.getcolors(10**6)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: WORKDIR"),
        (["--format=html"], "invalid choice: 'html'"),
        (["--out=x.jpg"], "--out writes a .png file, not x.jpg"),
        (["--out=nowhere/x.png"], "there is no folder nowhere"),
        (["nowhere"], "nowhere is no folder"),
    ],
)
def test_mistakes_are_one_line(capsys, runs, arguments, message):
    assert main([*(runs[:1] if arguments else []), *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("vit_jax: ")
    assert message in line
