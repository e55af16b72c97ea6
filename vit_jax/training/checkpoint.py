"""Checkpoints: Orbax, asynchronous and atomic, the newest few and the best; damaged ones are set aside."""

import logging
import os
import pathlib
from collections.abc import Callable
from typing import TypeVar

import absl.logging
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from vit_jax.errors import explained_writes
from vit_jax.pretrained.checksums import write_checksums
from vit_jax.training import saved
from vit_jax.training.state import TrainState

UNFINISHED = ".orbax-checkpoint-tmp"
"""What Orbax appends to the name of a step's folder until everything in it is written."""

T = TypeVar("T")


def _accuracy(metrics: dict) -> float:
    return metrics["top1"]


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<step>`.

    A step's folder appears whole or not at all, checksums included; saving goes on beside the training.
    """

    def __init__(self, workdir: str, keep: int = 2):
        """Opens the checkpoints of a workdir that no other process saves to; what a kill left half saved is removed.

        Args:
          keep: how many of the newest are kept, beside the best.
        """
        # Orbax warns at every save that has no validation and at every reading of parameters alone, and prints the
        # tracebacks of its threads before it raises the error, which `explained_writes` puts in one line.
        absl.logging.set_verbosity(absl.logging.FATAL)
        for name in ("asyncio", "concurrent.futures"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.directory = saved.checkpoint_folder(workdir)
        self.saving: int | None = None
        if jax.process_index() == 0:
            self.tidy()
        multihost_utils.sync_global_devices("checkpoints are tidy")
        keep_best = policies.BestN(n=1, get_metric_fn=_accuracy, keep_checkpoints_without_metrics=False)
        self.manager = ocp.CheckpointManager(
            epath.Path(self.directory),
            item_names=("state", "run"),
            options=ocp.CheckpointManagerOptions(
                # Without best_fn the accuracies would be neither written nor read, and the best forgotten on restart.
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), keep_best]),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self.write_checksums),
            ),
        )

    def tidy(self) -> None:
        """Names the saves that were cut off, which Orbax removes, and hides accuracies that it would stumble over."""
        for folder in self.directory.glob(f"*{UNFINISHED}*"):
            saved.say(f"checkpoint {folder.name.partition('.')[0]} was cut off while it was saved: removed")
        for step in saved.steps_in(self.directory):
            folder = self.directory / str(step)
            if (folder / "metrics").is_dir() and saved.accuracy_of(folder) is None:
                os.replace(folder / "metrics", unused(folder / "damaged-metrics"))
                saved.say(f"the accuracy in checkpoint {folder} is damaged: it no longer counts for the best")

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self.manager.latest_step()

    def best(self) -> int | None:
        """Returns the step that was best on the validation split, or None where none was measured."""
        return self.manager.best_step()

    def save(self, state: TrainState, step: int, position: int, facts: dict, validation: dict | None = None) -> None:
        """Starts saving; returns once the state may be overwritten.

        Args:
          facts: the config and whatever else a reader needs, JSON values.
          validation: metrics by which the best checkpoint is chosen.

        Raises:
          UserError: this or the save before it could not be written, with the reason.
        """
        self.wait()
        self.saving = step
        with explained_writes(f"a checkpoint in {self.directory}"):
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), run=ocp.args.JsonSave({"position": position, **facts})
                ),
                metrics={"top1": validation["top1"]} if validation else None,
                force=True,
            )

    def write_checksums(self) -> None:
        """Adds the checksums to the step that is written and about to get its name; in Orbax's thread."""
        if jax.process_index() == 0:
            for folder in self.directory.glob(f"{self.saving}{UNFINISHED}*"):
                write_checksums(folder)

    def wait(self) -> None:
        """Returns when everything is on disk. Raises a `UserError` where it could not be."""
        with explained_writes(f"a checkpoint in {self.directory}"):
            self.manager.wait_until_finished()

    def newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        """Returns the newest step that can be read, and what `read` made of it; None where nothing has been saved.

        Newer ones, which are damaged, are named and moved aside to `damaged-<step>`.

        Raises:
          UserError: none can be read; nothing is moved then.
        """
        self.wait()
        found = saved.read_newest(self.directory, read)
        if found is None:
            return None
        for step, wrong in found.damaged.items():
            aside = unused(self.directory / f"damaged-{step}")
            if jax.process_index() == 0:
                with explained_writes(str(aside)):
                    os.replace(self.directory / str(step), aside)
            saved.say(f"{wrong}: moved to {aside.name}; going back to step {found.step}")
        if found.damaged:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self.manager.reload()
        return found.step, found.value

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, laid out as `like`: abstract arrays with shardings.

          Raises:
            vit_jax.training.saved.Damaged: it is not as it was written.
        UserError: it is, but there is no memory for it, or it was made for another state.
        """
        folder = self.directory / str(step)
        sound = saved.require_sound(folder)
        with saved.explained_damage(folder, sound):
            return self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]

    def facts(self, step: int) -> dict:
        """Returns what was saved beside the state of a step (see `vit_jax.training.saved.read_facts`)."""
        return saved.read_facts(self.directory / str(step))

    def close(self) -> None:
        """Waits for the last save and lets go."""
        self.wait()
        self.manager.close()


def unused(path: pathlib.Path) -> pathlib.Path:
    """Returns the path, or one with a number where that is taken."""
    number, chosen = 1, path
    while chosen.exists():
        number += 1
        chosen = path.with_name(f"{path.name}-{number}")
    return chosen
