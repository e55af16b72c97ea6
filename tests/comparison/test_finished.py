"""Which runs are finished, and what becomes of those that a kill, a disk or a hand has left otherwise."""

import json
import pathlib
import shutil

import pytest

from tests.comparison.examples import STEPS, workdir
from vit_jax.comparison.finished import Unreadable, read_run, read_runs
from vit_jax.comparison.rows import rows_of
from vit_jax.errors import UserError
from vit_jax.training.records import METRICS_FILE


def recorded(folder: pathlib.Path, *lines: dict | bytes, **keys) -> str:
    """Returns a run with those lines as its metrics."""
    place = workdir(folder, "run", **keys)
    written = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (pathlib.Path(place) / METRICS_FILE).write_bytes(b"".join(line + b"\n" for line in written))
    return place


def evaluated(step: int, top1: object = 0.5) -> dict:
    return {"step": step, "eval/top1": top1}


def trained(step: int) -> dict:
    return {"step": step, "train/loss": 1.0, "train/images_per_second": 100.0}


def test_a_run_killed_in_its_last_evaluation_is_not_finished(tmp_path):
    run = read_run(recorded(tmp_path, evaluated(4), evaluated(8, 0.75), trained(STEPS)))
    assert (run.step, run.missing) == (STEPS, "not evaluated after its last step")
    other = read_run(workdir(tmp_path, "other", seed=1))
    assert rows_of([run, other])[1] == ["run is left out: it is not finished (not evaluated after its last step)"]
    assert read_run(recorded(tmp_path / "never", trained(STEPS))).missing == "never evaluated"


def test_evaluations_just_before_the_end_and_at_the_end_are_fine(tmp_path):
    """A share of the training as `eval.every` is rounded: it is due at 780 and at the last step of 781."""
    lines = (evaluated(STEPS - 1, 0.5), trained(STEPS), evaluated(STEPS, 0.75))
    run = read_run(recorded(tmp_path, *lines))
    assert (run.missing, run.top1, len(run.curve)) == (None, 0.75, 2)


def test_out_of_patience_between_two_evaluations_is_not_stopped_early(tmp_path):
    keys = {"train__early_stopping": "4 steps", "data__val_split": "train[90%:]", "best": {"step": 4, "top1": 0.5}}
    assert read_run(recorded(tmp_path, evaluated(4), evaluated(7), trained(8), **keys)).missing == "at step 8 of 12"
    assert read_run(recorded(tmp_path / "b", evaluated(4), trained(8), evaluated(8), **keys)).missing is None


DAMAGES = {
    "no UTF-8": b'{"step": 12, "eval/top1": 0.\xff5}',
    "step of another type": {"step": "12", "eval/top1": 0.5},
    "no JSON": b'{"step": 12, "eval',
}


@pytest.mark.parametrize("line", DAMAGES.values(), ids=DAMAGES)
def test_damage_ends_the_records_and_is_said(tmp_path, line):
    run = read_run(recorded(tmp_path, evaluated(4, 0.25), evaluated(8), line, trained(STEPS)))
    assert (run.step, run.top1) == (8, 0.5)
    assert run.missing == "at step 8 of 12, and its metrics.jsonl is damaged at line 3"


def test_damage_after_the_last_evaluation_is_no_matter(tmp_path):
    run = read_run(recorded(tmp_path, trained(STEPS), evaluated(STEPS), b"\xff"))
    assert (run.missing, run.top1) == (None, 0.5)


def test_metrics_that_are_gone_are_said(tmp_path):
    place = recorded(tmp_path)
    assert read_run(place).missing == "at step 0 of 12, and its metrics.jsonl holds no record"
    (pathlib.Path(place) / METRICS_FILE).unlink()
    assert read_run(place).missing == "at step 0 of 12, and its metrics.jsonl holds no record"


@pytest.mark.parametrize("top1", [float("nan"), float("inf"), None, "0.5"])
def test_a_last_accuracy_that_is_no_finite_number_is_none(tmp_path, top1):
    run = read_run(recorded(tmp_path, evaluated(8), trained(STEPS), evaluated(STEPS, top1)))
    assert run.missing == "without a finite top-1 after its last step"
    assert [accuracy for _, accuracy in run.curve] == [0.5]
    with pytest.raises(UserError, match="no run is finished: run is without a finite top-1 after its last step"):
        rows_of([run])


def test_a_speed_that_is_no_finite_number_is_none(tmp_path):
    speeds = ({"step": 4, "train/images_per_second": value} for value in (float("nan"), "fast", 100.0))
    assert read_run(recorded(tmp_path, *speeds, evaluated(STEPS))).images_per_second == 100.0


def facts_of(place: str) -> pathlib.Path:
    return pathlib.Path(place) / "checkpoints" / str(STEPS) / "run" / "metadata"


def with_fact(place: str, **facts) -> None:
    facts_of(place).write_text(json.dumps(json.loads(facts_of(place).read_text()) | facts))


BROKEN = {
    "facts cut off": (lambda place: facts_of(place).write_text("{"), "no checkpoint can be read"),
    "a fact gone": (lambda place: facts_of(place).write_text('{"config": {}}'), "does not tell 'class_names'"),
    "config of another type": (lambda place: with_fact(place, config=[1]), "does not tell what was trained"),
    "no number of examples": (lambda place: with_fact(place, examples=None), "does not tell what was trained"),
    "image of one side": (lambda place: with_fact(place, image_size=[8]), "does not tell what was trained"),
    "no checkpoint yet": (lambda place: shutil.rmtree(facts_of(place).parents[1]), "it holds no checkpoint"),
    "metrics no file": (
        lambda place: (pathlib.Path(place, METRICS_FILE).unlink(), pathlib.Path(place, METRICS_FILE).mkdir()),
        "metrics.jsonl: Is a directory",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_run_that_cannot_be_read_is_named_and_left_out(tmp_path, damage, reason):
    whole, broken = workdir(tmp_path, "whole"), workdir(tmp_path, "broken")
    damage(broken)
    runs, (unreadable,) = read_runs([broken, whole])
    assert isinstance(unreadable, Unreadable)
    assert reason in unreadable.reason
    rows, (note,) = rows_of(runs, [unreadable])
    assert [row.name for row in rows] == ["whole"]
    assert note == f"{broken} is left out: it cannot be read ({unreadable.reason})"
    with pytest.raises(UserError, match=f"no run is finished: {broken} cannot be read"):
        rows_of([], [unreadable])


def test_a_name_of_no_run_is_a_mistake(tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong, reason in (("nothing", "is no folder"), ("empty", "is no run: it holds no checkpoint")):
        with pytest.raises(UserError, match=f"{wrong} {reason}") as error:
            read_runs([workdir(tmp_path, f"beside-{wrong}"), str(tmp_path / wrong)])
        assert not isinstance(error.value, Unreadable)
