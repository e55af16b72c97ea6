"""Batches from a source: numbered by position, made by threads or by grain's processes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import numpy as np
from absl import flags

from vit_jax.data.decode import UnreadableImage
from vit_jax.data.host import HostTransform
from vit_jax.data.memory import KeptArray
from vit_jax.data.order import Order, draws
from vit_jax.data.sources import ArraySource, Source, describe
from vit_jax.data.unreadable import Unreadable
from vit_jax.errors import UserError

Batch = dict[str, np.ndarray]
"""`image` uint8 `[batch, height, width, 3]`, `label` int32 `[batch]`, `mask` bool `[batch]`."""

PREFETCHED_BATCHES = 2


class Loaded(NamedTuple):
    """A batch, and the rows of it that could not be read, each as its name and the reason."""

    batch: Batch
    problems: tuple[tuple[str, str], ...]


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
    threads: int = 1

    def __call__(self, position: int) -> Loaded:
        passes, rows = (part[self.host.of(self.order.batch_size)] for part in self.order.rows(position))
        uniform = draws(self.order.seed, passes, rows, self.transform.draws)
        if self.copies_pixels:
            return self.copied(rows, uniform)

        def view(place: int) -> tuple[np.ndarray, int]:
            image, label = read(self.source, int(rows[place]))
            return self.transform.train(image, uniform[place]), label

        return assembled(self.source, rows, np.ones(len(rows), bool), self.transform.size, view, self.threads)

    @property
    def copies_pixels(self) -> bool:
        """Whether a batch is made by copying rows of an array, without a call for each image."""
        in_memory = isinstance(self.source, ArraySource | KeptArray)
        return in_memory and self.transform.only_moves_pixels and self.source.image_size == self.transform.size

    def copied(self, rows: np.ndarray, uniform: np.ndarray) -> Loaded:
        """Returns the batch of rows whose pixels are in memory, or are decoded into it first."""
        problems, mask = (), np.ones(len(rows), bool)
        if isinstance(self.source, KeptArray):
            places = self.source.rows_to_read(rows)

            def view(place: int) -> tuple[np.ndarray, int]:
                return read(self.source, int(rows[places[place]]))

            first = assembled(self.source, rows[places], mask[places], self.transform.size, view, self.threads)
            mask[places], problems = first.batch["mask"], first.problems
        labels = self.source.known_labels if isinstance(self.source, KeptArray) else self.source.labels
        batch = {
            "image": self.transform.train_batch(self.source.images, rows, uniform),
            "label": np.where(mask, labels[rows], 0).astype(np.int32),
            "mask": mask,
        }
        return Loaded(batch, problems)


@dataclasses.dataclass
class EvalBatches:
    """Maps a number to this host's part of an evaluation batch; together they hold every example once.

    The last batch is padded with black images, whose `mask` is False. Numbers go round: after the last batch comes the
    first.
    """

    source: Source
    batch_size: int
    transform: HostTransform
    host: HostRows = HostRows()
    threads: int = 1

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self.batch_size)

    def __call__(self, number: int) -> Loaded:
        first = number % len(self) * self.batch_size
        rows = np.arange(first, first + self.batch_size)[self.host.of(self.batch_size)]
        mask, rows = rows < len(self.source), np.minimum(rows, len(self.source) - 1)

        def view(place: int) -> tuple[np.ndarray, int]:
            image, label = read(self.source, int(rows[place]))
            return self.transform.evaluate(image), label

        return assembled(self.source, rows, mask, self.transform.size, view, self.threads)


def assembled(
    source: Source,
    rows: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    view: Callable[[int], tuple[np.ndarray, int]],
    threads: int = 1,
) -> Loaded:
    """Returns the batch of single examples.

    Args:
      mask: False where a row is padding, which is not read.
      view: maps a place in `rows` to image and label. Where it cannot be read the image stays black, the label 0, and
        the mask becomes False.
    """
    images, labels, mask = np.zeros((len(rows), *size, 3), np.uint8), np.zeros(len(rows), np.int32), mask.copy()
    problems: dict[int, tuple[str, str]] = {}

    def fill(places: range) -> None:
        for place in places:
            if not mask[place]:
                continue
            try:
                images[place], labels[place] = view(place)
            except (OSError, UnreadableImage) as error:
                mask[place] = False
                problems[place] = describe(source, int(rows[place])), reason(error)

    if threads == 1:
        fill(range(len(rows)))
    else:
        list(_pool(threads).map(fill, [range(first, len(rows), threads) for first in range(threads)]))
    batch = {"image": images, "label": labels, "mask": mask}
    return Loaded(batch, tuple(problems[place] for place in sorted(problems)))


def read(source: Source, row: int) -> tuple[np.ndarray | bytes, int]:
    """Returns a source's row; what a source of the user's raises of a bad one is taken for an unreadable image."""
    try:
        return source[row]
    except ValueError as error:
        raise UnreadableImage(str(error)) from error


def reason(error: Exception) -> str:
    """Returns why a row could not be read, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, "vit_jax_loading")


def iterate(
    batches: TrainBatches | EvalBatches,
    start: int,
    stop: int,
    workers: int = 0,
    unreadable: Unreadable | None = None,
) -> Iterator[Batch]:
    """Yields the batches of the positions from `start` to `stop`, in order, loaded ahead of their use.

    Args:
      workers: processes; 0 uses as many threads of this process as it has processors.
      unreadable: what is told of the examples that cannot be read; None is a tally that allows none.

    Raises:
      UserError: more examples than `unreadable` allows cannot be read, or a process was lost.
    """
    unreadable = unreadable or Unreadable(0)
    if not workers:
        batches = dataclasses.replace(batches, threads=processors())
    reading = grain.ReadOptions(num_threads=PREFETCHED_BATCHES, prefetch_buffer_size=PREFETCHED_BATCHES)
    dataset = grain.MapDataset.range(start, stop).map(batches).to_iter_dataset(reading)
    if workers:
        flags.FLAGS.mark_as_parsed()  # grain's processes read absl flags, which no command of ours parses
        _expect_lost_memory()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_leave_ends_to_parent)
    # Closing ends the processes, also when the caller stops early.
    with contextlib.closing(iter(dataset)) as loading, _explained_loss(workers):
        for batch, problems in loading:
            unreadable.take(problems)
            yield batch


def _expect_lost_memory() -> None:
    """Keeps Python from warning of the batches that a killed process had in shared memory: it frees them itself.

    It does so in a process of its own, which is started once and takes its filters from here.
    """
    option = "ignore:resource_tracker:UserWarning"
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)


@contextlib.contextmanager
def _explained_loss(workers: int) -> Iterator[None]:
    """Turns grain's word of a process that has died into one line."""
    try:
        yield
    except RuntimeError as error:
        died = re.search(r"Worker process was terminated unexpectedly with exit code (-?\d+)", str(error))
        if died is None:
            raise
        code = int(died[1])
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        memory = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
        raise UserError(
            f"a process that loads data {how}{memory}; what was saved is intact: give the command again to continue, "
            f"with fewer than data.workers={workers} if memory is short"
        ) from error


def processors() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_ends_to_parent(index: int, count: int) -> None:
    """Makes a loading process end when the training process ends it, or dies, and not before.

    Ctrl-C reaches every process of the terminal; the training process saves first and then ends its workers. One that
    is killed ends none: they would wait for it for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
