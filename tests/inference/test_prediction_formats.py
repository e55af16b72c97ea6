"""A table, CSV and JSON: what is written is read back."""

import csv
import io
import json

import numpy as np
import pytest

from vit_jax.data.folder_tables import labelled_files
from vit_jax.inference.prediction_formats import FORMATS, Ranked, ranked

NAMES = ["ant", "bee, or wasp", 'a "cat"']
PATHS = ["a.jpg", "with, comma.jpg", "new\nline.jpg", "ä ö.jpg", 'a "b".jpg']
CLASSES = [Ranked(1, NAMES[1], 0.9123456789), Ranked(0, NAMES[0], 0.05)]


def written(kind, paths=PATHS, classes=CLASSES) -> str:
    out = io.StringIO()
    writer = FORMATS[kind](out)
    for path in paths:
        writer.write(path, classes)
    writer.close()
    return out.getvalue()


def test_ranked():
    probabilities = np.array([0.2, 0.7, 0.1], np.float32)
    best = ranked(probabilities, NAMES, 2)
    assert [(one.label, one.name) for one in best] == [(1, NAMES[1]), (0, NAMES[0])]
    assert best[0].probability == pytest.approx(0.7)
    assert [one.name for one in ranked(probabilities, None, 9)] == ["1", "0", "2"]


def test_ranked_puts_the_first_of_equals_first():
    assert [one.label for one in ranked(np.full(5, 0.2, np.float32), None, 3)] == [0, 1, 2]


def test_csv_is_read_back():
    rows = list(csv.reader(io.StringIO(written("csv"), newline="")))
    assert rows[0] == ["path", "class", "probability", "class_2", "probability_2"]
    assert [row[0] for row in rows[1:]] == PATHS
    assert {tuple(row[1:]) for row in rows[1:]} == {(NAMES[1], "0.912346", NAMES[0], "0.05")}


def test_csv_is_a_table_of_labelled_files(tmp_path):
    (tmp_path / "x.csv").write_text(written("csv"), encoding="utf-8", newline="")
    assert list(labelled_files(str(tmp_path / "x.csv"))) == [(path, NAMES[1], "") for path in PATHS]


def test_json_is_read_back():
    records = json.loads(written("json"))
    assert [record["path"] for record in records] == PATHS
    assert records[0]["classes"] == [
        {"label": 1, "name": NAMES[1], "probability": 0.912346},
        {"label": 0, "name": NAMES[0], "probability": 0.05},
    ]
    assert json.loads(written("json", [])) == []


def test_json_has_no_nan():
    text = written("json", ["a.jpg"], [Ranked(0, "ant", float("nan"))])
    assert json.loads(text, parse_constant=pytest.fail)[0]["classes"][0]["probability"] is None


def test_json_is_valid_for_names_of_any_bytes():
    name = b"bad\xff.jpg".decode("utf-8", "surrogateescape")
    assert json.loads(written("json", [name]).encode())[0]["path"] == name


def test_table_is_for_people():
    lines = written("table", ["a.jpg", "new\nline.jpg"]).splitlines()
    assert lines[:3] == ["a.jpg", "   91.2 %  bee, or wasp", "    5.0 %  ant"]
    assert lines[3] == r"'new\nline.jpg'"
    assert written("table", ["a.jpg"], CLASSES[:1]) == "a.jpg   91.2 %  bee, or wasp\n"


@pytest.mark.parametrize("kind", FORMATS)
def test_answers_are_written_as_they_come(kind):
    out = io.StringIO()
    writer = FORMATS[kind](out)
    lengths = []
    for path in PATHS:
        writer.write(path, CLASSES)
        lengths.append(len(out.getvalue()))
    assert lengths == sorted(set(lengths))
