"""Measures what saving costs the steps beside it, and whether memory grows over a long run.

    python -m tests.faults.long_runs --part=saving [--steps=60]
    python -m tests.faults.long_runs --part=memory [--steps=2000]

`saving`: ViT-S/16 with AdamW and an average, 350 MB of state, saved every tenth step. `memory`: a small ViT on digits
with logging, evaluation and saving on the way; resident memory and live arrays are compared between step 200 and the
last, and the exit status says whether they have grown.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from typing import NamedTuple
from unittest import mock

import jax
from ml_collections import ConfigDict

from vit_jax.config import load_config
from vit_jax.training.loop import Loop
from vit_jax.training.run import train

SETTLED = 200
"""Steps after which everything that is allocated once has been."""

WINDOW = 100
"""Steps that are looked at after that, and at the end."""

MOST_GROWTH = 50e6
"""Bytes of resident memory that are no growth: allocators keep what was freed."""


class Moment(NamedTuple):
    """What was seen after a step.

    Attributes:
      seconds: since the step before, a save between them included.
      saving: whether a save was under way.
      resident: bytes of this process.
      arrays: how many jax arrays there are.
    """

    seconds: float
    saving: bool
    resident: int
    arrays: int


def resident_bytes() -> int:
    """Returns the resident memory of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watched(config: ConfigDict, workdir: str) -> tuple[list[Moment], list[float]]:
    """Runs a config and returns what was seen after each step, and how many seconds each save held the loop."""
    moments, held, after_step, save = [], [], Loop.after_step, Loop.save
    mark = time.perf_counter()

    def noting(self, state, step, bar, last):
        nonlocal mark
        after_step(self, state, step, bar, last)
        jax.block_until_ready(state)
        now = time.perf_counter()
        saving = self.checkpoints.manager.is_saving_in_progress()
        moments.append(Moment(now - mark, saving, resident_bytes(), len(jax.live_arrays())))
        mark = now

    def timing(self, state, step):
        jax.block_until_ready(state)
        begun = time.perf_counter()
        save(self, state, step)
        held.append(time.perf_counter() - begun)

    with mock.patch.object(Loop, "after_step", noting), mock.patch.object(Loop, "save", timing):
        train(config, workdir=workdir)
    return moments, held


def small_run(steps: int) -> ConfigDict:
    """Returns a config for `memory`."""
    config = load_config("configs/digits.py")
    config.model.width, config.model.dropout = 16, 0.1
    config.train.duration, config.train.ema_decay, config.train.log_every = f"{steps} steps", 0.9, "20 steps"
    config.eval.every, config.checkpoint.every = "100 steps", "50 steps"
    return config


def large_run(steps: int) -> ConfigDict:
    """Returns a config for `saving`."""
    config = load_config("configs/digits.py")
    config.model = {"name": "vit_s16"}
    config.data.image_size, config.train.batch_size = 64, 16
    config.train.duration, config.train.ema_decay, config.train.log_every = f"{steps} steps", 0.9, "10 steps"
    config.schedule.warmup = "5 steps"
    config.eval.every, config.checkpoint.every = "200%", "10 steps"
    return config


def least(moments: list[Moment]) -> tuple[int, int]:
    """Returns the least bytes and arrays of some steps: what a save holds while it is under way comes and goes."""
    return min(moment.resident for moment in moments), min(moment.arrays for moment in moments)


def settled_and_last(moments: list[Moment]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the least bytes and arrays of the steps after a run has settled, and of as many at its end."""
    # The last step is evaluated and saved, and what that holds is no growth: those before it count.
    return least(moments[SETTLED : SETTLED + WINDOW]), least(moments[-1 - WINDOW : -1])


def main() -> int:
    """Measures and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("saving", "memory"), required=True)
    parser.add_argument("--steps", type=int)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vit_jax_long_") as workdir:
        if flags.part == "memory":
            moments, _ = watched(small_run(flags.steps or 2000), workdir)
            first, last = settled_and_last(moments)
            for when, (resident, arrays) in ((f"after step {SETTLED}", first), (f"before step {len(moments)}", last)):
                print(f"{when}: {resident / 1e6:.0f} MB, {arrays} arrays")
            return int(last[0] - first[0] > MOST_GROWTH or last[1] > first[1])
        moments, held = watched(large_run(flags.steps or 60), workdir)
    # A step that saves holds the loop for the copy, which is counted by itself.
    steps = {
        saving: [m.seconds for number, m in enumerate(moments, 1) if m.saving == saving and number % 10 and number > 3]
        for saving in (True, False)
    }
    for saving, seconds in steps.items():
        middle = f"median {1e3 * statistics.median(seconds):.0f} ms" if seconds else "none"
        print(f"steps {'during' if saving else 'without'} a save: {middle} of {len(seconds)}")
    print(f"a save holds the loop for {1e3 * statistics.median(held):.0f} ms (median of {len(held)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
