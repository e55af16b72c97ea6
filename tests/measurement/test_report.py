"""Figures of what is known, and of what is not."""

import dataclasses

import jax
import pytest

from tests.measurement.examples import FakeProgram, small_cases
from vit_jax.measurement.flops import Products
from vit_jax.measurement.programs import Facts, work_of
from vit_jax.measurement.report import as_json, table
from vit_jax.measurement.speed import Speeds, notes_of
from vit_jax.measurement.turns import Measured

FACTS = Facts(1.5, 2**20, Products(9e9), load_seconds=0.25, file_bytes=5_000_000)
TIMES = {"seconds": [2.0, 1.0, 4.0], "latencies": [1.0, 2.0, 2.0, 4.0]}


def measured(facts: Facts, **fields) -> Measured:
    """Returns a program that took 2 seconds a call of 4 images, 8 GFLOP together."""
    program = FakeProgram("fake", [])
    program.work = dataclasses.replace(program.work, **fields)
    return Measured(program, facts, **TIMES)


def report(*several: Measured) -> dict:
    """Returns the JSON of programs on a device that does 10 GFLOP/s."""
    rates = {"float32": 1e10, "bfloat16": 1e10}
    return as_json(Speeds("infer", jax.devices()[:1], 3, rates, list(several), notes_of(several)), peak_tflops=0.04)


def test_figures_follow_from_the_times():
    (row,) = report(measured(FACTS))["cases"]
    assert (row["images_per_second"], row["milliseconds_p50"], row["milliseconds_p95"]) == (2.0, 2000.0, 4000.0)
    assert (row["model_gflop_per_image"], row["hardware_gflop_per_image"]) == (2.0, 2.25)
    assert (row["mfu"], row["mfu_of_peak"]) == (pytest.approx(0.4), pytest.approx(0.1))
    assert row["hardware_utilisation"] == pytest.approx(0.45)
    assert (row["load_seconds"], row["file_megabytes"], row["peak_mebibytes"]) == (0.25, 5.0, 1.0)


def test_what_is_not_known_is_a_dash():
    found = report(measured(FACTS), measured(Facts(None, None, None), products=None, tokens=None))
    row = found["cases"][1]
    unknown = ("load_seconds", "file_megabytes", "compile_seconds", "peak_mebibytes", "model_gflop_per_image", "mfu")
    assert all(row[key] is None for key in (*unknown, "mfu_of_peak", "hardware_utilisation", "model_tflops"))
    assert row["images_per_second"] == 2.0
    _, _, _, known, line = table(found)[:5]
    assert "-" not in known.split()
    assert line.split().count("-") == 10


def test_shares_of_another_devices_rate_are_left_out():
    found = report(measured(dataclasses.replace(FACTS, on_device=False)))
    (row,) = found["cases"]
    assert row["model_tflops"] == pytest.approx(0.004)
    assert row["mfu"] is row["mfu_of_peak"] is row["hardware_utilisation"] is None
    assert found["notes"][:1] == ["fake does not run where the large products did; shares of their rate are left out"]


def test_notes_are_said_once():
    noted = [measured(FACTS, notes=("one",)), measured(FACTS, notes=("one", "two"))]
    assert report(*noted)["notes"][:2] == ["one", "two"]


def test_a_training_that_leaves_parameters_alone_says_so():

    frozen, plain = small_cases([("optimizer.frozen", "^patch")])[0], small_cases()[0]
    ((note,), none) = (work_of(case.experiment(), "train").notes for case in (frozen, plain))
    assert note.startswith("not all parameters are trained")
    assert none == work_of(frozen.experiment(), "infer").notes == ()
