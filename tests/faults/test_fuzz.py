"""A short version of `python -m tests.faults.fuzz`."""

import collections
import os
import pathlib
import shutil
import time

import numpy as np
import pytest

from tests.faults import fuzz
from tests.faults.fuzz import KINDS, Outcome, Reader, mutation, read, run, seeds, without_code


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    seeds(folder)
    return folder


def counted(outcomes) -> dict[str, int]:
    """Checks that no outcome is a fault, and returns how many there are of each."""
    outcomes = list(outcomes)
    faults = [f"{path}: {outcome.name}: {outcome.said}" for path, outcome in outcomes if outcome.is_fault]
    assert not faults, "\n".join(faults)
    return collections.Counter(outcome.name for _, outcome in outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_read_or_refused_in_one_line(kind, good, tmp_path):
    paths = [mutation(kind, number, 0, good, tmp_path) for number in range(15)]
    counts = counted((path, without_code(read(path), tmp_path)) for path in paths)
    assert counts["answered"] + counts["refused"] == 15
    assert counts["refused"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_of_each_kind(kind, tmp_path):
    counts = counted((path, outcome) for _, path, outcome in run([kind], 200, 1, tmp_path))
    assert sum(counts.values()) == 200
    assert min(counts["refused"], counts["answered"]) >= 20


def test_the_same_seed_makes_the_same_files(good, tmp_path):
    def content(seed):
        folder = tmp_path / "x"  # the files name it
        paths = [mutation(kind, number, seed, good, folder) for kind in KINDS for number in range(4)]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        assert len(files) >= len(paths)
        contents = [file.read_bytes() for file in files]
        shutil.rmtree(folder)
        return contents

    first = content(3)
    assert content(3) == first
    assert content(4) != first


def test_undamaged_files_are_answered(good):
    for name in ("timm", "huggingface", "google.npz"):
        assert read(good / name) == Outcome("answered")


@pytest.mark.parametrize(
    ("raised", "name"),
    [
        (ValueError("x"), "traceback"),
        (RecursionError(), "traceback"),
        (SystemExit(), "traceback"),
        (fuzz.UserError("no file is named"), "file not named"),
        (fuzz.UserError("google.npz"), "file not named"),
        (fuzz.UserError("FILE is damaged"), "refused"),
    ],
)
def test_how_an_end_is_judged(raised, name, good, monkeypatch):
    path = good / "google.npz"
    if "FILE" in str(raised):
        raised = fuzz.UserError(str(raised).replace("FILE", str(path)))

    def load_model(path):
        raise raised

    monkeypatch.setattr("vit_jax.inference.model.load_model", load_model)
    assert read(path).name == name
    assert Outcome(name).is_fault == (name != "refused")


def ending(path: pathlib.Path) -> Outcome:
    """Ends as the file's name says."""
    if path.name == "crash":
        os.abort()
    if path.name == "hang":
        time.sleep(1000)
    if path.name == "memory":
        np.ones(2**40, np.uint8)
    return Outcome("answered", path.name)


@pytest.mark.slow
def test_crashes_hangs_and_memory_are_noticed_and_survived(tmp_path):
    reader = Reader(str(tmp_path), ending, seconds=5)
    try:
        assert [reader(pathlib.Path(name)).name for name in ("a", "crash", "b", "hang", "c")] == [
            "answered",
            "crash",
            "answered",
            "hang",
            "answered",
        ]
        assert reader(pathlib.Path("memory")).name == "crash"  # the exception ends the process
        assert reader(pathlib.Path("d")).said == "d"
    finally:
        reader.stop()


def test_code_that_ran_is_noticed(tmp_path):
    assert without_code(Outcome("answered"), tmp_path) == Outcome("answered")
    (tmp_path / "CANARY").touch()
    assert without_code(Outcome("answered"), tmp_path).name == "ran code"
