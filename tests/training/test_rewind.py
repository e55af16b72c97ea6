"""Going back to the last checkpoint from a loss that is not finite, and past the batches since."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax.config import resolve
from vit_jax.errors import UserError
from vit_jax.training import loop, run
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.loop import Loop
from vit_jax.training.records import read_metrics
from vit_jax.training.rewind import BAD_STEP


@pytest.fixture
def config(config):
    """Saves after steps 4, 8 and 12, and looks at the loss at these."""
    config.train.on_nonfinite = "rewind"
    return config


@pytest.fixture
def poison(monkeypatch):
    """Makes every step not finite that consumes one of these global batches; notes the positions in their order."""
    bad, consumed, build = set(), [], run.build

    def poisoned(config, train=None):
        experiment = build(config, train)
        batches = experiment.train_batches()
        positions = {batches(position).batch["image"].tobytes(): position for position in range(30)}

        def step(state, batch):
            position = positions[np.asarray(batch["image"]).tobytes()]
            consumed.append(position)
            state, metrics = experiment.train_step(state, batch)
            if position in bad:
                state = state.replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
                metrics = {**metrics, "loss": np.float32(np.nan)}
            return state, metrics

        return dataclasses.replace(experiment, train_step=step)

    monkeypatch.setattr(run, "build", poisoned)

    def with_bad(*positions):
        bad.clear()
        bad.update(positions)
        consumed.clear()
        return consumed

    return with_bad


def leaves(state) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def assert_equal(one, other) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def rewinds(workdir) -> list[tuple[int, int]]:
    return [(record["step"], record[BAD_STEP]) for record in read_metrics(str(workdir)) if BAD_STEP in record]


def test_it_goes_back_and_past_the_batches_since(config, poison, tmp_path, capsys):
    consumed = poison(5)
    state, metrics = run.train(config, workdir=str(tmp_path))
    # Steps 5 and 6 took the batches 4 and 5; what was started before that was known does not count.
    assert consumed[:6] == [0, 1, 2, 3, 4, 5]
    assert consumed[-8:] == [6, 7, 8, 9, 10, 11, 12, 13]
    assert int(state.step) == 12
    assert all(np.isfinite(leaf).all() for leaf in leaves(state))
    assert np.isfinite(metrics["train/loss"])
    said = capsys.readouterr().err
    assert "the loss is nan at step 6: back to step 4, past the 2 batches since (1 of train.rewinds=3)" in said
    facts = Checkpoints(str(tmp_path)).facts(12)
    assert (facts["position"], facts["rewinds"]) == (14, [[4, 6]])
    assert rewinds(tmp_path) == [(4, 6)]
    records = read_metrics(str(tmp_path))
    assert [record["step"] for record in records] == sorted(record["step"] for record in records)


@pytest.mark.parametrize(
    "died", ["right after it went back", pytest.param("after the next checkpoint", marks=pytest.mark.slow)]
)
def test_a_run_that_is_continued_skips_the_same_batches(config, poison, tmp_path, monkeypatch, died):
    """Also where what made the loss infinite does not happen again."""
    poison(5, 11)
    whole, _ = run.train(config, workdir=str(tmp_path / "whole"))

    go_back, save = Loop.go_back, Loop.save

    def going_back(self, *arguments):
        go_back(self, *arguments)
        raise KeyboardInterrupt

    def saving(self, state, step):
        save(self, state, step)
        self.checkpoints.wait()
        if step == 8:
            raise KeyboardInterrupt

    consumed = poison(5, 11)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, *(("go_back", going_back) if died.startswith("right") else ("save", saving)))
        with pytest.raises(KeyboardInterrupt):
            run.train(config, workdir=str(tmp_path / "broken"))
    consumed = poison(11)
    state, _ = run.train(config, workdir=str(tmp_path / "broken"))
    assert consumed[0] == (6 if died.startswith("right") else 10)
    assert_equal(state, whole)
    assert rewinds(tmp_path / "broken") == rewinds(tmp_path / "whole")


def test_after_as_many_times_as_allowed_it_stops(config, poison, tmp_path):
    config.train.rewinds = 1
    poison(5, 8)
    with pytest.raises(UserError, match=r"loss is nan at step 7, and the run has gone back 1 times .* train\.rewinds"):
        run.train(config, workdir=str(tmp_path))
    assert Checkpoints(str(tmp_path)).latest() == 4
    # What counts is the run, not the start: once more ends at once where it ended.
    with pytest.raises(UserError, match="at step 7, and the run has gone back 1 times"):
        run.train(config, workdir=str(tmp_path))
    config.train.rewinds = 2
    state, _ = run.train(config, workdir=str(tmp_path))
    assert int(state.step) == 12
    assert rewinds(tmp_path) == [(4, 6), (4, 7)]


def test_it_stops_where_it_is_not_asked_to_go_back_and_may_be_asked_then(config, poison, tmp_path):
    config.train.on_nonfinite = "abort"
    poison(5)
    with pytest.raises(UserError, match=r"loss is nan at step 6; stopped, .* train\.on_nonfinite='rewind'"):
        run.train(config, workdir=str(tmp_path))
    config.train.on_nonfinite = "rewind"
    state, _ = run.train(config, workdir=str(tmp_path))
    assert int(state.step) == 12


def test_before_the_first_checkpoint_there_is_nothing_to_go_back_to(config, poison, tmp_path):
    poison(1)
    with pytest.raises(UserError, match="nan at step 2, before the first checkpoint: there is nothing to go back to"):
        run.train(config, workdir=str(tmp_path))


def test_the_held_out_set_is_measured_whole_after_going_back(config, poison, tmp_path):
    """The evaluation after step 5 is done twice; what loads it must not run out."""
    config.eval.every = "5 steps"
    poison(6)
    counts = []
    measure = loop.HeldOut.measure

    def counted(self, state):
        results = measure(self, state)
        counts.append(len(results.rank))
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.HeldOut, "measure", counted)
        run.train(config, workdir=str(tmp_path))
    assert counts == [360] * 4


def test_there_are_two_ways_only(config):
    config.train.on_nonfinite = "ignore"
    with pytest.raises(UserError, match=r"train\.on_nonfinite must be abort or rewind, not 'ignore'"):
        resolve(config)
