"""Checkpoints: Orbax, asynchronous and atomic, the newest few and the best."""

import contextlib
from collections.abc import Iterator

import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vit_jax.errors import UserError, explained_writes
from vit_jax.training.state import TrainState


def _accuracy(metrics: dict) -> float:
    return metrics["top1"]


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints/<step>`.

    A step's folder appears whole or not at all; saving goes on beside the training.
    """

    def __init__(self, workdir: str, keep: int = 2, read_only: bool = False):
        """Opens the checkpoints of a workdir.

        Args:
          keep: how many of the newest are kept, beside the best.
          read_only: look, but touch nothing: another process may be saving there.
        """
        # Orbax warns at every save that has no validation and at every reading of parameters alone, and prints the
        # tracebacks of its threads before it raises the error, which `explained_writes` puts in one line.
        logging.set_verbosity(logging.FATAL)
        self.directory = epath.Path(workdir).absolute() / "checkpoints"
        keep_best = policies.BestN(n=1, get_metric_fn=_accuracy, keep_checkpoints_without_metrics=False)
        self.manager = ocp.CheckpointManager(
            self.directory,
            item_names=("state", "run"),
            options=ocp.CheckpointManagerOptions(
                # Without best_fn the accuracies would be neither written nor read, and the best forgotten on restart.
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), keep_best]),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                enable_async_checkpointing=not read_only,
            ),
        )

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
        with explained_writes(f"a checkpoint in {self.directory}"):
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), run=ocp.args.JsonSave({"position": position, **facts})
                ),
                metrics={"top1": validation["top1"]} if validation else None,
                force=True,
            )

    def wait(self) -> None:
        """Returns when everything is on disk. Raises a `UserError` where it could not be."""
        with explained_writes(f"a checkpoint in {self.directory}"):
            self.manager.wait_until_finished()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, laid out as `like`: abstract arrays with shardings."""
        with self.explained_damage(step):
            return self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]

    def facts(self, step: int) -> dict:
        """Returns what was saved beside the state of a step: its data position (`position`) and the run's facts."""
        with self.explained_damage(step):
            return dict(self.manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"])

    @contextlib.contextmanager
    def explained_damage(self, step: int) -> Iterator[None]:
        """Turns whatever Orbax raises for a checkpoint that it cannot read into one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"checkpoint {self.directory / str(step)} is damaged ({type(error).__name__}: {str(error)[:100]}); "
                "move it away to continue from the one before"
            ) from error

    def close(self) -> None:
        """Waits for the last save and lets go."""
        self.wait()
        self.manager.close()
