"""Batches from a source: numbered by position, made by grain's threads or processes."""

import dataclasses
import math
import os
import signal
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from vit_jax.data.host import DRAWS, HostTransform
from vit_jax.data.order import Order, draws
from vit_jax.data.sources import Source

Batch = dict[str, np.ndarray]
"""`image` uint8 `[batch, height, width, 3]`, `label` int32 `[batch]`, `mask` bool `[batch]`."""

PREFETCHED_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class HostRows:
    """Which rows of every global batch this host loads: the `index`-th of `count` equal parts."""

    index: int = 0
    count: int = 1

    def of(self, batch_size: int) -> slice:
        """Returns the slice of a global batch; `batch_size` is a multiple of `count`."""
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


@dataclasses.dataclass
class TrainBatches:
    """Maps a position to this host's part of that global batch. Pure: any process may be asked for any position."""

    source: Source
    order: Order
    transform: HostTransform
    host: HostRows = HostRows()

    def __call__(self, position: int) -> Batch:
        epochs, rows = (part[self.host.of(self.order.batch_size)] for part in self.order.rows(position))
        uniform = draws(self.order.seed, epochs, rows, DRAWS)
        examples = [self.source[int(row)] for row in rows]
        images = [self.transform.train(image, u) for (image, _), u in zip(examples, uniform, strict=True)]
        return stack(images, [label for _, label in examples], np.ones(len(rows), bool))


@dataclasses.dataclass
class EvalBatches:
    """Maps a number to this host's part of an evaluation batch; together they hold every example once.

    The last batch is padded with repeats of the last row, whose `mask` is False.
    """

    source: Source
    batch_size: int
    transform: HostTransform
    host: HostRows = HostRows()

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __call__(self, number: int) -> Batch:
        rows = np.arange(number * self.batch_size, (number + 1) * self.batch_size)[self.host.of(self.batch_size)]
        mask = rows < len(self.source)
        examples = [self.source[int(row)] for row in np.minimum(rows, len(self.source) - 1)]
        return stack([self.transform.evaluate(image) for image, _ in examples], [label for _, label in examples], mask)


def stack(images: list[np.ndarray], labels: list[int], mask: np.ndarray) -> Batch:
    """Returns the batch of single examples."""
    return {"image": np.stack(images), "label": np.array(labels, np.int32), "mask": mask}


def iterate(batches: TrainBatches | EvalBatches, start: int, stop: int, workers: int = 0) -> Iterator[Batch]:
    """Yields the batches of the positions from `start` to `stop`, in order, loaded ahead of their use.

    Args:
      workers: processes; 0 uses threads of this process.
    """
    threads = min(PREFETCHED_BATCHES, os.cpu_count() or 1)
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCHED_BATCHES)
    dataset = grain.MapDataset.range(start, stop).map(batches).to_iter_dataset(reading)
    if workers:
        flags.FLAGS.mark_as_parsed()  # grain's processes read absl flags, which no command of ours parses
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_leave_interrupts_to_parent)
    return iter(dataset)


def _leave_interrupts_to_parent(index: int, count: int) -> None:
    """Ctrl-C reaches every process of the terminal; the training process saves first and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
