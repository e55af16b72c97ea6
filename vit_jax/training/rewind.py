"""Going back to the last checkpoint when a step was not finite, and past the batches in between.

Steps are counted on from the checkpoint, batches from the one after the bad step: the data position is the step plus
the number of batches skipped. Each time is recorded in `metrics.jsonl` at once and in every later checkpoint, so that a
run that is continued skips the same ones.
"""

import dataclasses

from ml_collections import ConfigDict

from vit_jax.errors import UserError
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.experiment import Experiment
from vit_jax.training.meter import NonFinite
from vit_jax.training.records import read_metrics
from vit_jax.training.state import TrainState

BAD_STEP = "rewind/nonfinite_step"
"""Name of the record, at the step that the run went back to."""


@dataclasses.dataclass
class Past:
    """What a run has gone back over.

    Attributes:
      rewinds: each as the step that it went back to and the step that was not finite.
    """

    rewinds: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @property
    def skipped(self) -> int:
        """Batches that were consumed for nothing."""
        return sum(bad - step for step, bad in self.rewinds)

    def allowed(self, error: NonFinite, config: ConfigDict) -> int:
        """Returns the bad step where the config says to go back from it.

        Raises:
          UserError: it says to stop, or the run has gone back as often as it may.
        """
        if config.train.on_nonfinite != "rewind":
            raise error
        if len(self.rewinds) >= config.train.rewinds:
            raise UserError(
                f"the {error.what} at step {error.step}, and the run has gone back {len(self.rewinds)} times already; "
                "stopped, and the checkpoints before it kept. Raise train.rewinds, or lower optimizer.lr, lengthen "
                "schedule.warmup or set train.clip_norm, with another --workdir"
            ) from error
        return error.step

    def skip(self, step: int, bad: int) -> None:
        """Goes back from the bad step to the checkpoint of `step`."""
        self.rewinds.append((step, bad))

    def record(self) -> dict[str, int]:
        """Returns the last rewind as it is written to the metrics of its step."""
        return {BAD_STEP: self.rewinds[-1][1]}

    def facts(self) -> dict:
        """Returns what a checkpoint says of the rewinds."""
        return {"rewinds": [list(rewind) for rewind in self.rewinds]}


def past_of(workdir: str, step: int, facts: dict) -> Past:
    """Returns what a run had gone back over that continues from a checkpoint: before it was saved, and to it."""
    after = [
        (step, record[BAD_STEP]) for record in read_metrics(workdir) if record["step"] == step and BAD_STEP in record
    ]
    return Past([tuple(rewind) for rewind in facts.get("rewinds", [])] + after)


def back(checkpoints: Checkpoints, experiment: Experiment) -> tuple[int, tuple[TrainState, dict | None]] | None:
    """Returns the step of the newest checkpoint, with its state and the best validation until then; None without one.

    Raises:
      UserError: there are some, but none can be read.
    """

    def read(step: int) -> tuple[TrainState, dict | None]:
        best = checkpoints.facts(step).get("best")
        return checkpoints.restore(step, experiment.abstract_state()), best

    return checkpoints.newest(read)
