"""What the steps measure, read late, and whether it is finite."""

import math
import time
from collections.abc import Iterator

import jax

from vit_jax.data.loading import Batch
from vit_jax.errors import UserError

STEPS_AHEAD = 2
"""Steps that may be under way on the device: it never waits for the host, and no more batches than these lie there."""


class NonFinite(UserError):
    """A loss, a gradient or a parameter is not a finite number.

    Attributes:
      step: the first with such a one.
      what: which, and its value.
    """

    def __init__(self, step: int, what: str):
        super().__init__(
            f"the {what} at step {step}; stopped, and the checkpoints before it kept. Go on past these batches with "
            "train.on_nonfinite='rewind', or lower optimizer.lr, lengthen schedule.warmup or set train.clip_norm, "
            "with another --workdir"
        )
        self.step, self.what = step, what


class Meter:
    """Collects the steps' metrics and reads them late, so that the loop never waits for the step it just started."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.waiting: list[tuple[int, dict]] = []
        self.seconds, self.timed_steps, self.data_seconds = 0.0, 0, 0.0
        self.mark: float | None = None

    def add(self, step: int, metrics: dict) -> None:
        """Takes the metrics of a step that has just been started, still on the device."""
        self.waiting.append((step, metrics))
        if len(self.waiting) > STEPS_AHEAD:
            jax.block_until_ready(self.waiting[-1 - STEPS_AHEAD][1])
        self.timed_steps += self.mark is not None
        self.count_time()
        self.mark = time.perf_counter()

    def loaded(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches, and counts the time that each one was waited for while the training was timed."""
        done = object()
        while True:
            begun = time.perf_counter()
            batch = next(batches, done)
            if batch is done:
                return
            if self.mark is not None:
                self.data_seconds += time.perf_counter() - begun
            yield batch

    def count_time(self) -> None:
        """Adds the time since the last mark, if any, to that of the training."""
        if self.mark is not None:
            now = time.perf_counter()
            self.seconds += now - self.mark
            self.mark = now

    def pause(self) -> None:
        """Leaves what happens until the next step out of the training speed."""
        self.mark = None

    def require_finite(self, upto: int | None = None) -> list[dict]:
        """Returns the values of the waiting steps, or of those up to a step.

        Raises:
          NonFinite: a loss, a gradient or a parameter is not; the first such step is named.
        """
        taken = [(step, metrics) for step, metrics in self.waiting if upto is None or step <= upto]
        values = jax.device_get([metrics for _, metrics in taken])
        self.count_time()
        for (step, _), value in zip(taken, values, strict=True):
            for name in ("loss", "gradient_norm", "parameter_norm"):
                if not math.isfinite(value[name]):
                    raise NonFinite(step, f"{name.replace('_', ' ')} is {float(value[name])}")
        return values

    def read(self, upto: int | None = None) -> dict[str, float]:
        """Returns the mean loss since the last reading, the last values of the rest, the training speed, and the share
        of the time that was spent waiting for data.
        """
        values = self.require_finite(upto)
        if not values:
            return {}
        self.waiting = self.waiting[len(values) :]
        read = {f"train/{name}": float(value) for name, value in values[-1].items()}
        read["train/loss"] = sum(float(value["loss"]) for value in values) / len(values)
        if self.seconds:
            read["train/images_per_second"] = self.timed_steps * self.batch_size / self.seconds
            read["train/data_wait"] = self.data_seconds / self.seconds
        self.seconds, self.timed_steps, self.data_seconds = 0.0, 0, 0.0
        return read
