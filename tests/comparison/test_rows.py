"""What a run tells, and which runs are one row."""

import dataclasses
import json
import pathlib
import statistics

import numpy as np
import pytest

import vit_jax
from tests.comparison.examples import EXAMPLES, STEPS, workdir
from tests.training.conftest import small_config
from vit_jax.comparison.finished import Run, read_run
from vit_jax.comparison.rows import rows_of
from vit_jax.config import resolve
from vit_jax.errors import UserError
from vit_jax.training.experiment import build
from vit_jax.training.summary import parameter_count


def rows(folder: pathlib.Path, *runs: dict) -> tuple[list, list[str]]:
    return rows_of([read_run(workdir(folder, **run)) for run in runs])


def test_a_run_tells_its_size_cost_speed_and_accuracy(tmp_path):
    run = read_run(workdir(tmp_path, "one", top1=(0.5, 0.75, 0.625)))
    assert (run.name, run.step, run.total_steps, run.missing) == ("one", STEPS, STEPS, None)
    assert (run.top1, run.best_top1, run.images_per_second) == (0.625, 0.75, 120.0)
    assert run.epochs == STEPS * 32 / EXAMPLES
    assert run.curve == tuple((step * 32 / EXAMPLES, top1) for step, top1 in ((4, 0.5), (8, 0.75), (12, 0.625)))
    experiment = build(resolve(small_config()))
    assert run.parameters == parameter_count(experiment.abstract_state().params)
    patches, tokens, width, mlp_dim = 4, 5, 16, 32
    block = 4 * width**2 + 2 * width * mlp_dim + 2 * tokens * width
    assert run.gflop == 2e-9 * (patches * 4 * 4 * 3 * width + 2 * tokens * block + width * 10)


def test_a_real_run_is_read(tmp_path):
    config = small_config()
    config.train.duration, config.train.log_every, config.schedule.warmup = "3 steps", "1 steps", "0 steps"
    config.checkpoint.every = config.eval.every = "3 steps"
    _, metrics = vit_jax.train(config, workdir=str(tmp_path / "real"))
    run = read_run(str(tmp_path / "real"))
    assert run.missing is None
    assert (run.step, run.top1) == (3, metrics["eval/top1"])
    assert run.images_per_second > 0


def test_seeds_are_one_row_with_mean_and_spread(tmp_path):
    accuracies = (0.70, 0.74, 0.81)
    found, notes = rows(
        tmp_path,
        *({"name": f"vit-seed{i}", "top1": (0.1 * i, top1), "seed": i} for i, top1 in enumerate(accuracies)),
        {"name": "wide", "model__width": 32, "top1": (0.9,)},
    )
    assert [row.name for row in found] == ["vit", "wide"]
    first, second = found
    assert (first.members, first.seeds) == (("vit-seed0", "vit-seed1", "vit-seed2"), (0, 1, 2))
    assert first.top1.mean == pytest.approx(np.mean(accuracies))
    assert first.top1.std == pytest.approx(statistics.stdev(accuracies))
    assert first.curve[0][1] == pytest.approx(0.1)
    assert second.top1.std is None
    assert second.parameters > first.parameters
    assert notes == []


@pytest.mark.parametrize(
    "keys", [{"data__workers": 3}, {"mesh__data": 2, "checkpoint__keep": 5}, {"eval__every": "1%"}]
)
def test_keys_that_leave_the_mathematics_alone_make_no_row_of_their_own(tmp_path, keys):
    found, _ = rows(tmp_path, {"name": "a", "seed": 1}, {"name": "b", "seed": 2, **keys})
    assert len(found) == 1


@pytest.mark.parametrize(
    "keys", [{"optimizer__lr": 0.1}, {"model__depth": 1}, {"data__eval_split": "train"}, {"model__dtype": "bfloat16"}]
)
def test_keys_that_change_results_do(tmp_path, keys):
    found, _ = rows(tmp_path, {"name": "a", "seed": 1}, {"name": "b", "seed": 2, **keys})
    assert [row.members for row in found] == [("a",), ("b",)]


def test_names_lose_their_seeds_alone(tmp_path):
    run = read_run(workdir(tmp_path, "x"))

    def name_of(*names: str) -> str:
        members = [dataclasses.replace(run, name=name, config=run.config | {"seed": i}) for i, name in enumerate(names)]
        return rows_of(members)[0][0].name

    assert name_of("bfloat16-0", "bfloat16-1") == "bfloat16"
    assert name_of("resnet18") == "resnet18"
    assert name_of("resnet18", "resnet18_seed1") == "resnet18"
    assert name_of("swin.seed=1", "swin.seed=22") == "swin"
    assert name_of("ours", "theirs") == "ours"


def named(folder: pathlib.Path, *groups: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Returns the names and members of rows: each group of paths is of one config, with the seeds from 0."""
    example = read_run(workdir(folder, "example"))
    runs = []
    for rate, group in enumerate(groups):
        for seed, path in enumerate(group):
            config = example.config | {"optimizer.lr": rate, "seed": seed}
            name = pathlib.PurePath(path).name
            runs.append(dataclasses.replace(example, name=name, path=f"/runs/{path}", config=config))
    return [(row.name, row.members) for row in rows_of(runs)[0]]


def test_rows_of_folders_with_the_same_name_are_told_apart(tmp_path):
    assert named(tmp_path / "1", ("x/run",), ("y/run",)) == [("x/run", ("x/run",)), ("y/run", ("y/run",))]
    assert [name for name, _ in named(tmp_path / "2", ("p/x/run",), ("q/x/run",), ("y/run",), ("other",))] == [
        "p/x/run",
        "q/x/run",
        "y/run",
        "other",
    ]
    seeds = named(tmp_path / "3", ("x/vit-0", "x/vit-1"), ("y/vit-0", "y/vit-1"))
    assert seeds == [("x/vit", ("x/vit-0", "x/vit-1")), ("y/vit", ("y/vit-0", "y/vit-1"))]
    numbers = named(tmp_path / "4", ("vit/0", "vit/1"), ("wide/0", "wide/1"))
    assert [name for name, _ in numbers] == ["vit", "wide"]


def test_seeds_in_folders_with_the_same_name_are_told_apart_in_their_row(tmp_path):
    assert named(tmp_path, ("x/resnet18", "y/resnet18")) == [("resnet18", ("x/resnet18", "y/resnet18"))]


def test_rows_that_folders_do_not_tell_apart_are_called_as_their_runs(tmp_path):
    assert [name for name, _ in named(tmp_path / "1", ("vit-0", "vit-1"), ("vit-2", "vit-3"), ("vit",))] == [
        "vit-0, vit-1",
        "vit-2, vit-3",
        "vit",
    ]
    assert [name for name, _ in named(tmp_path / "2", ("x/run", "z/run"), ("y/run",))] == ["x/run, z/run", "y/run"]


def unfinished(folder: pathlib.Path, **keys) -> Run:
    return read_run(workdir(folder, "short", step=8, **keys))


def test_unfinished_runs_are_left_out_and_named(tmp_path):
    short, whole = unfinished(tmp_path), read_run(workdir(tmp_path, "whole", seed=1))
    assert short.missing == "at step 8 of 12"
    found, notes = rows_of([short, whole])
    assert [row.members for row in found] == [("whole",)]
    assert notes == ["short is left out: it is not finished (at step 8 of 12)"]
    with pytest.raises(UserError, match="no run is finished: short is at step 8 of 12"):
        rows_of([short])


def test_a_run_that_was_stopped_early_is_finished(tmp_path):
    keys = {"train__early_stopping": "4 steps", "data__val_split": "train[90%:]"}
    assert unfinished(tmp_path / "a", best={"step": 4, "top1": 0.5}, **keys).missing is None
    assert unfinished(tmp_path / "b", best={"step": 6, "top1": 0.5}, **keys).missing == "at step 8 of 12"


def test_what_makes_a_comparison_weak_is_said(tmp_path):
    _, notes = rows(tmp_path, {"name": "a"}, {"name": "b", "data__eval_split": "train"})
    assert notes == ["the runs differ in data.eval_split: test, train"]
    _, notes = rows(tmp_path / "again", {"name": "a"}, {"name": "b"})
    assert notes == ["a: some of its runs have the same seed, so the spread is too small"]


def test_a_run_counts_once(tmp_path):
    run = read_run(workdir(tmp_path, "a"))
    with pytest.raises(UserError, match="a is named twice"):
        rows_of([run, run])


def broken(folder: pathlib.Path, write) -> str:
    place = pathlib.Path(workdir(folder, "broken"))
    file = place / "checkpoints" / str(STEPS) / "run" / "metadata"
    file.write_text(write(json.loads(file.read_text())))
    return str(place)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: str(folder / "nothing"), "nothing is no folder; name the workdirs of runs"),
        (lambda folder: str(folder), "is no run: it holds no checkpoint"),
        (lambda folder: broken(folder, lambda facts: "{"), "no checkpoint can be read"),
        (lambda folder: broken(folder, lambda facts: json.dumps({"config": {}})), "does not tell 'class_names'"),
        (
            lambda folder: broken(folder, lambda f: json.dumps({**f, "config": {**f["config"], "train.old": 1}})),
            "unknown config key 'train.old'",
        ),
    ],
)
def test_what_is_no_run_is_one_line_that_names_it(tmp_path, make, message):
    place = make(tmp_path)
    with pytest.raises(UserError) as error:
        read_run(place)
    assert message in str(error.value)
    assert place in str(error.value)
