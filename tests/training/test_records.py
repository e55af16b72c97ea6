"""The file of metrics: what is read of one that is damaged, and what a continued run makes of it."""

import json

import pytest

from vit_jax.training.records import METRICS_FILE, cut_metrics, read_metrics, sound_records

GOOD = [{"step": 4, "train/loss": 1.5}, {"step": 8, "train/loss": 1.0}]
AFTER = [{"step": 12, "train/loss": 0.5}]


def lines(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


NO_RECORDS = [
    b'{"step": 12, "train/lo\xffss": 0.5}',
    b'{"step": "12"}',
    b'{"step": 12.5}',
    b'{"step": null}',
    b'{"step": true}',
    b'{"loss": 1.0}',
    b'{"step": 12, ',
    b"12",
    b"",
    b"[" * 100_000,
    bytes(16),
]


@pytest.mark.parametrize("line", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_records_end_at_the_first_line_that_is_none(tmp_path, line, capsys):
    file = tmp_path / METRICS_FILE
    file.write_bytes(lines(GOOD) + line + b"\n" + lines(AFTER))
    assert sound_records(str(tmp_path)) == (GOOD, 3)
    assert read_metrics(str(tmp_path)) == GOOD
    cut_metrics(str(tmp_path), 4)
    assert file.read_bytes() == lines(GOOD[:1])
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"{file} is damaged at line 3: what it held from there on is dropped"


@pytest.mark.parametrize("torn", [b"", b'{"step": 12, "tra', b'{"step": 12, "\xc3', bytes(16)])
def test_what_a_kill_cuts_off_is_no_damage(tmp_path, torn, capsys):
    file = tmp_path / METRICS_FILE
    file.write_bytes(lines(GOOD) + torn)
    assert sound_records(str(tmp_path)) == (GOOD, None)
    cut_metrics(str(tmp_path), 8)
    assert file.read_bytes() == lines(GOOD)
    assert capsys.readouterr().err == ""


def test_a_last_record_without_its_line_end_is_one(tmp_path):
    (tmp_path / METRICS_FILE).write_bytes(lines(GOOD).rstrip(b"\n"))
    assert sound_records(str(tmp_path)) == (GOOD, None)


def test_no_file_holds_no_records(tmp_path):
    assert sound_records(str(tmp_path)) == ([], None)
    cut_metrics(str(tmp_path), 4)
    assert list(tmp_path.iterdir()) == []
