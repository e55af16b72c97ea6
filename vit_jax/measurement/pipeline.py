"""How many images a second the host's pipeline makes: by stage on one thread, and whole by number of workers."""

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from vit_jax.data.decode import decode_image
from vit_jax.data.host import HostTransform
from vit_jax.data.loading import TrainBatches, iterate
from vit_jax.data.order import draws
from vit_jax.data.unreadable import Unreadable
from vit_jax.errors import UserError
from vit_jax.measurement.samples import spread

STAGE_IMAGES = 256
"""Images that a stage is timed on at a time."""


TRIAL_BATCHES = 16
"""Batches that tell about how fast the pipeline is."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Images a second, one number a repeat."""

    name: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles, as a share of the median."""
        return spread(self.samples)


def stage_speeds(batches: TrainBatches, repeats: int) -> list[Speed]:
    """Returns the speed of each stage of the host's work, alone and on one thread, but of those that do nothing."""
    rows = readable_rows(batches)
    transform = batches.transform
    uniform = draws(batches.order.seed, np.arange(STAGE_IMAGES), rows, transform.draws)
    plain = HostTransform(transform.size)
    geometry = dataclasses.replace(transform, policy=plain.policy, jitter=plain.jitter, affine=plain.affine)
    colours = dataclasses.replace(transform, crop="none")
    files = [image for image, _ in map(batches.source.__getitem__, map(int, rows))]
    whole = [decode_image(image) for image in files[:32]]
    views = [geometry.train(image, u) for image, u in zip(files, uniform, strict=True)]
    stages: dict[str, Callable[[int], object]] = {"read": lambda i: batches.source[int(rows[i])]}
    if any(isinstance(image, bytes) for image in files):
        stages["decode whole"] = lambda i: decode_image(files[i])
        stages["decode and crop"] = lambda i: geometry.train(files[i], uniform[i])
    stages["crop"] = lambda i: geometry.train(whole[i % len(whole)], uniform[i])
    if colours != dataclasses.replace(geometry, crop="none"):
        stages["augment"] = lambda i: colours.train(views[i], uniform[i])
    return [Speed(name, tuple(_timed(stage) for _ in range(repeats))) for name, stage in stages.items()]


def readable_rows(batches: TrainBatches) -> np.ndarray:
    """Returns `STAGE_IMAGES` rows of the first batches whose images can be read, int64, again and again if need be.

    Raises:
      UserError: there are none.
    """
    found = []
    for position in range(math.ceil(STAGE_IMAGES / batches.order.batch_size)):
        _, rows = batches.order.rows(position)
        for row in map(int, rows):
            with contextlib.suppress(OSError, ValueError):
                decode_image(batches.source[row][0])
                found.append(row)
    if not found:
        raise UserError("none of the first images can be read")
    return np.resize(np.array(found, np.int64), STAGE_IMAGES)


def _timed(stage: Callable[[int], object]) -> float:
    begun = time.perf_counter()
    for i in range(STAGE_IMAGES):
        stage(i)
    return STAGE_IMAGES / (time.perf_counter() - begun)


def pipeline_speeds(batches: TrainBatches, workers: Sequence[int], repeats: int, seconds: float) -> list[Speed]:
    """Returns the speed of the whole pipeline for each number of worker processes (0: threads of this process).

    Args:
      seconds: how long each repeat takes at least; one such time is spent on warming up.
    """
    names = [f"{count} worker{'s' * (count > 1)}" if count else "threads" for count in workers]
    return [
        Speed(name, _pipeline(batches, count, repeats, seconds)) for name, count in zip(names, workers, strict=True)
    ]


def _pipeline(batches: TrainBatches, workers: int, repeats: int, seconds: float) -> tuple[float, ...]:
    """Times equal parts of one stream, after a part that warms up. How long they must be is tried out first."""
    rows_a_batch = batches.order.batch_size // batches.host.count
    *_, last = _marks(batches, workers, TRIAL_BATCHES)
    part = max(1, math.ceil(seconds * (TRIAL_BATCHES - 1) / (last or 1e-9)))
    marks = _marks(batches, workers, part * (repeats + 1) + 1)[::part]
    return tuple(part * rows_a_batch / (end - start) for start, end in itertools.pairwise(marks[1:]))


def _marks(batches: TrainBatches, workers: int, count: int) -> list[float]:
    """Returns when each of some batches came, in seconds after the first."""
    marks = [time.perf_counter() for _ in iterate(batches, 0, count, workers, Unreadable(len(batches.source)))]
    return [mark - marks[0] for mark in marks]


def pipeline_lines(
    batches: TrainBatches, name: str, stages: Sequence[Speed], whole: Sequence[Speed], repeats: int
) -> list[str]:
    """Returns the speeds as the lines of a table.

    Args:
      name: of the set and its split.
    """
    size = "x".join(map(str, batches.transform.size))
    lines = [f"{name}: {len(batches.source):,} images to {size} pixels", f"images/s, median of {repeats}"]
    for title, speeds in (("one thread, each stage alone", stages), ("the whole pipeline", whole)):
        lines.append(f"  {title}")
        lines += [f"    {speed.name:<16} {speed.median:>12,.0f}  ±{speed.spread:.0%}" for speed in speeds]
    return lines
