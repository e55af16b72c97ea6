"""Saving goes on beside the steps, and memory does not grow."""

import threading

import pytest

from tests.faults.long_runs import MOST_GROWTH, settled_and_last, small_run, watched
from tests.training.conftest import small_config
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.loop import Loop
from vit_jax.training.run import train


def test_steps_go_on_while_a_checkpoint_is_being_written(tmp_path, monkeypatch):
    """The save of step 4 is held up until the loop has come to step 7; a loop that waited would never come there."""
    there, held_up = threading.Event(), []
    write, after_step = Checkpoints.write_checksums, Loop.after_step

    def writing(self):
        if self.saving == 4:
            held_up.append(there.wait(120))
        write(self)

    def noting(self, state, step, bar, last):
        if step == 7:
            assert self.checkpoints.manager.is_saving_in_progress()
            there.set()
        after_step(self, state, step, bar, last)

    monkeypatch.setattr(Checkpoints, "write_checksums", writing)
    monkeypatch.setattr(Loop, "after_step", noting)
    train(small_config(), workdir=str(tmp_path))
    assert held_up == [True]
    assert Checkpoints(str(tmp_path)).latest() == 12


@pytest.mark.slow
def test_memory_does_not_grow_over_2000_steps(tmp_path):
    (resident, arrays), (resident_at_last, arrays_at_last) = settled_and_last(
        watched(small_run(2000), str(tmp_path))[0]
    )
    assert arrays_at_last <= arrays
    assert resident_at_last - resident < MOST_GROWTH
