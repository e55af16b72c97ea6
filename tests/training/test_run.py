"""Whole runs: continuing, refusing, stopping, saving."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from tests.training.conftest import small_config
from vit_jax.data.sources import ArraySource, digits_source
from vit_jax.errors import UserError
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.evaluate import evaluate
from vit_jax.training.loop import HeldOut, Interrupted, Loop
from vit_jax.training.records import read_metrics
from vit_jax.training.run import train


def assert_equal_trees(one, other):
    """Bit for bit."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The last state and the workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("trained")
    return train(small_config(), workdir=str(workdir))[0], workdir


@pytest.fixture
def unbroken(trained, tmp_path):
    """The last state of that run, whose workdir is copied to `unbroken`."""
    shutil.copytree(trained[1], tmp_path / "unbroken")
    return trained[0]


def interrupt_at(monkeypatch, stop_step, error=KeyboardInterrupt):
    """Makes the loop die right after it has started saving `stop_step`."""
    original = Loop.save

    def save(self, state, step):
        original(self, state, step)
        if step == stop_step:
            self.checkpoints.wait()
            raise error

    monkeypatch.setattr(Loop, "save", save)


def test_a_continued_run_equals_the_unbroken_one_bit_for_bit(config, unbroken, tmp_path, monkeypatch, capsys):
    workdir = str(tmp_path / "broken")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, workdir=workdir)
    state, metrics = train(config, workdir=workdir)
    assert "from step 8 of 12" in capsys.readouterr().out
    assert_equal_trees(state, unbroken)
    records, whole = read_metrics(workdir), read_metrics(str(tmp_path / "unbroken"))
    assert [r["step"] for r in records] == [r["step"] for r in whole]
    assert metrics["eval/top1"] == whole[-1]["eval/top1"]


def test_the_same_command_after_the_end_trains_no_further(config, unbroken, tmp_path):
    state, metrics = train(config, workdir=str(tmp_path / "unbroken"))
    assert_equal_trees(state, unbroken)
    assert metrics["eval/top1"] >= 0


def test_workdir_holds_what_the_design_names(config, unbroken, tmp_path):
    workdir = tmp_path / "unbroken"
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["train"]["batch_size"] == 32
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").iterdir())
    assert {p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()} == {"8", "12"}
    last = read_metrics(str(workdir))[-1]
    assert {"step", "eval/top1", "eval/top5", "eval/loss"} <= last.keys()
    assert not any("train/images_per_second" in r and r["train/images_per_second"] <= 0 for r in read_metrics(workdir))


def test_records_after_the_checkpoint_are_cut_and_a_torn_line_is_dropped(config, unbroken, tmp_path):
    path = tmp_path / "unbroken" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 99, "train/loss": 1.0}\n{"step": 100, "tra')
    train(config, workdir=str(tmp_path / "unbroken"))
    assert path.read_text() == whole


def test_other_mathematics_is_refused_with_both_values(config, unbroken, tmp_path):
    config.optimizer.lr = 5e-4
    config.model.heads = 4
    with pytest.raises(UserError, match=r"model.heads was 2, is 4; optimizer.lr was 0.001, is 0.0005"):
        train(config, workdir=str(tmp_path / "unbroken"))


def test_keys_that_leave_the_mathematics_alone_may_change_and_are_said(config, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            train(config, workdir=str(tmp_path))
    config.train.log_every = "3 steps"
    config.model.remat = "full"
    train(config, workdir=str(tmp_path))
    assert "train.log_every was '4 steps', is '3 steps'" in capsys.readouterr().out


def test_sigterm_saves_first_and_the_run_continues(config, unbroken, tmp_path, monkeypatch):
    import signal

    import vit_jax.training.loop as loop

    place = loop.place
    placed = []
    config.train.log_every = "5 steps"

    def place_and_signal(*arguments):
        placed.append(arguments)
        if len(placed) == 5:
            signal.raise_signal(signal.SIGTERM)
        return place(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "place", place_and_signal)
        with pytest.raises(Interrupted, match="SIGTERM received: saved step 5") as raised:
            train(config, workdir=str(tmp_path / "stopped"))
    assert raised.value.status == 143
    state, _ = train(config, workdir=str(tmp_path / "stopped"))
    assert_equal_trees(state, unbroken)
    recorded = {record["step"] for record in read_metrics(str(tmp_path / "stopped")) if "train/loss" in record}
    assert {5, 10} <= recorded


def test_a_signal_during_evaluation_saves_too(config, tmp_path, monkeypatch):
    import signal

    measure = HeldOut.measure

    def measure_and_signal(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return measure(*arguments)

    monkeypatch.setattr(HeldOut, "measure", measure_and_signal)
    config.eval.every, config.checkpoint.every = "3 steps", "100 steps"
    with pytest.raises(Interrupted, match="saved step 3"):
        train(config, workdir=str(tmp_path))
    assert Checkpoints(str(tmp_path)).latest() == 3


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(config, tmp_path):
    config.optimizer.name = "sgd"
    config.optimizer.lr = 1e30
    config.schedule.warmup = "0 steps"
    config.schedule.name = "constant"
    with pytest.raises(UserError, match=r"is (nan|inf) at step \d+; stopped"):
        train(config, workdir=str(tmp_path))
    saved = Checkpoints(str(tmp_path)).latest()
    assert saved is None or saved < 12


def test_early_stopping_needs_a_validation_split(config, tmp_path):
    config.train.early_stopping = "4 steps"
    with pytest.raises(UserError, match=r"data\.val_split"):
        train(config, workdir=str(tmp_path))


def test_early_stopping_stops_and_the_best_checkpoint_outlives_the_newest(config, tmp_path, monkeypatch):
    """The validation accuracy is made to fall or stay from step 8 on; patience is 12 steps."""
    config.train.duration = "60 steps"
    config.data.train_split, config.data.val_split = "train[:80%]", "train[80%:]"
    config.train.early_stopping = "12 steps"
    config.eval.every = "4 steps"
    config.checkpoint.every = "16 steps"
    config.train.log_every = "20 steps"
    accuracies = {4: 0.5, 8: 0.9, 12: 0.8, 16: 0.9, 20: 0.6}

    class Measured:
        def __init__(self, step):
            self.step = step

        def metrics(self):
            return {"top1": accuracies[self.step], "top5": 1.0, "loss": 1.0, "examples": 1, "unreadable": 0}

    monkeypatch.setattr(HeldOut, "measure", lambda held_out, state: Measured(int(state.step)))
    state, _ = train(config, workdir=str(tmp_path))
    assert int(state.step) == 20
    again, _ = train(config, workdir=str(tmp_path))
    assert int(again.step) == 20
    saved = Checkpoints(str(tmp_path))
    assert saved.best() == 8
    assert set(saved.manager.all_steps()) == {8, 16, 20}


@pytest.mark.parametrize("key", ["train_split", "eval_split"])
def test_a_validation_split_shares_nothing(config, tmp_path, key):
    config.data.train_split, config.data.val_split = "train[:80%]", "train[80%:]"
    config.data[key] = "train[:90%]"
    with pytest.raises(UserError, match=f"shares examples with data.{key}"):
        train(config, workdir=str(tmp_path))


def test_evaluation_mode_uses_the_average_and_writes_classes_and_confusion(config, unbroken, tmp_path, capsys):
    workdir = str(tmp_path / "unbroken")
    trained = read_metrics(workdir)[-1]
    metrics = evaluate(config, workdir)
    assert metrics["top1"] == trained["eval/top1"]
    assert metrics["examples"] == 360
    report = json.loads((tmp_path / "unbroken" / "evaluation.json").read_text())
    assert sum(c["examples"] for c in report["classes"].values()) == 360
    rows = (tmp_path / "unbroken" / "confusion.csv").read_text().splitlines()[1:]
    counts = np.array([[int(v) for v in row.split(",")[1:]] for row in rows])
    assert counts.sum() == 360
    assert np.isclose(np.trace(counts) / 360, metrics["top1"])


def test_evaluation_finds_a_relative_workdir_and_says_what_it_took(config, unbroken, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config.model.gelu = "exact"
    evaluate(config, "unbroken")
    out = capsys.readouterr().out
    assert "weights of unbroken, step 12 (averaged)" in out
    assert "unlike those weights: model.gelu was 'tanh', is 'exact'" in out


def test_a_run_whose_newest_checkpoint_is_damaged_continues_from_the_one_before(config, unbroken, tmp_path, capsys):
    workdir = tmp_path / "unbroken"
    before = read_metrics(str(workdir))
    next((workdir / "checkpoints" / "12" / "state" / "d").iterdir()).write_bytes(b"")
    state, _ = train(config, workdir=str(workdir))
    said = capsys.readouterr()
    assert "is not as it was written): moved to damaged-12; going back to step 8" in said.err
    assert "from step 8 of 12" in said.out
    assert_equal_trees(state, unbroken)
    assert [record["step"] for record in read_metrics(str(workdir))] == [record["step"] for record in before]


def test_init_from_another_run_starts_at_its_parameters(config, unbroken, tmp_path):
    config.init_from = str(tmp_path / "unbroken")
    config.optimizer.lr = 0.0
    config.optimizer.weight_decay = 0.0
    config.train.duration = "4 steps"
    state, _ = train(config, workdir=str(tmp_path / "second"))
    assert_equal_trees(state.params, unbroken.ema_params)


def test_init_from_another_model_names_the_first_difference(config, unbroken, tmp_path):
    config.init_from = str(tmp_path / "unbroken")
    config.model.mlp_dim = 48
    with pytest.raises(UserError, match=r"encoder/block_0/mlp/dense_0/bias is \(32,\), not \(48,\)"):
        train(config, workdir=str(tmp_path / "second"))


def test_arrays_in_place_of_a_named_set(config, tmp_path):
    digits = digits_source("train[:128]")
    mine = ArraySource(digits.images, digits.labels % 3, ["a", "b", "c"])
    state, metrics = train(config, mine, mine, workdir=str(tmp_path))
    assert state.params["head"]["kernel"].shape == (16, 3)
    assert 0 <= metrics["eval/top1"] <= 1


def test_own_data_are_not_mixed_with_a_named_set(config, tmp_path):
    digits = digits_source("train[:128]")
    mine = ArraySource(digits.images, digits.labels % 3, ["a", "b", "c"])
    with pytest.raises(UserError, match="pass `evaluate` too"):
        train(config, mine, workdir=str(tmp_path))
    with pytest.raises(UserError, match="the classes of the evaluation data"):
        train(config, mine, digits, workdir=str(tmp_path))
    with pytest.raises(UserError, match="training source is empty"):
        train(config, ArraySource(digits.images[:0], digits.labels[:0], ["a"]), mine, workdir=str(tmp_path))


def test_continuing_with_other_data_is_refused(config, tmp_path):
    digits, fewer = digits_source("train[:128]"), digits_source("train[:96]")
    train(config, digits, digits, workdir=str(tmp_path))
    with pytest.raises(UserError, match="data examples was 128, is 96"):
        train(config, fewer, digits, workdir=str(tmp_path))


def test_an_architectures_own_default_written_out_is_no_difference(config, unbroken, tmp_path):
    config.model.gelu = "tanh"
    state, _ = train(config, workdir=str(tmp_path / "unbroken"))
    assert_equal_trees(state, unbroken)


def test_a_full_disk_is_one_line_and_what_was_saved_stays(config, tmp_path, monkeypatch):
    original = Checkpoints.save

    def save(self, state, step, *rest):
        if step == 8:
            monkeypatch.setattr(self.manager, "save", full)
        original(self, state, step, *rest)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(UserError, match="no space left on the device; what was saved before is intact"):
        train(config, workdir=str(tmp_path))
    assert Checkpoints(str(tmp_path)).latest() == 4


def test_a_workdir_that_cannot_be_made(config, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError, match="cannot write to workdir"):
        train(config, workdir=str(pathlib.Path(blocker) / "run"))
