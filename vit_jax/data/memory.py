"""Decoded images kept in memory, so that each file of a small set is read and decoded once a run."""

import concurrent.futures
import contextlib
import os
import threading

import numpy as np
from tqdm import tqdm

from vit_jax.data.decode import UnreadableImage, decode_image, open_image
from vit_jax.data.sources import ArraySource, Source, describe, labels_of

IN_MEMORY_BYTES = 2**31
"""A set whose decoded images need less than this is kept in memory."""

SAMPLED_ROWS = 32
"""Rows whose headers are read to tell how large a set is whose images differ in size."""


def kept_in_memory(source: Source, processes: int = 1) -> Source:
    """Returns a source that decodes whole images and keeps them, where all of them fit; else the source itself.

    Whether they do is a matter of the set alone. A file that is shrunk while it is decoded gives other pixels than a
    whole image that is cropped afterwards, and a run must not depend on the number of its workers.

    Args:
      processes: how many will load, each with a copy of its own: of a set that does not fit so often, each keeps part.
    """
    needed = decoded_bytes(source)
    if isinstance(source, ArraySource) or needed > IN_MEMORY_BYTES:
        return source
    room = IN_MEMORY_BYTES // processes
    return (KeptArray if source.image_size and needed <= room else KeptImages)(source, room)


def decoded_bytes(source: Source) -> float:
    """Returns what all images need when decoded, estimated from some where they differ in size."""
    if source.image_size:
        return 3.0 * len(source) * source.image_size[0] * source.image_size[1]
    areas = []
    for row in np.linspace(0, len(source) - 1, min(SAMPLED_ROWS, len(source))).astype(int):
        try:
            areas.append(np.prod(open_image(source[int(row)][0]).shape))
        except (OSError, ValueError):  # named and counted when it is loaded
            continue
    return 3.0 * len(source) * float(np.mean(areas)) if areas else float("inf")


BLOCK = 1000
"""Rows that are read at once where a source can."""


class _Kept:
    """What both kinds share: the facts of the source, and that worker processes get no copies of its images."""

    def __init__(self, source: Source, room: float):
        self.source, self.room = source, room
        self.class_names, self.image_size = source.class_names, source.image_size

    def __getstate__(self):
        return {"source": self.source, "room": self.room}

    def __setstate__(self, state):
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def labels(self) -> np.ndarray:
        """The label of every row, int `[rows]`, -1 where it cannot be read; no image is decoded for it."""
        return labels_of(self.source)

    def describe(self, row: int) -> str:
        """Returns what a message calls a row."""
        return describe(self.source, row)


class KeptArray(_Kept):
    """Images of one size. They are decoded when first asked for, or, where the source reads many rows at once
    (`__getitems__`) far faster than singly, all of them at the first.
    """

    def __init__(self, source: Source, room: float):
        super().__init__(source, room)
        self.images = np.zeros((len(source), *source.image_size, 3), np.uint8)
        self.known_labels = np.full(len(source), -1, np.int32)
        self.filling = threading.Lock()
        self.filled = not hasattr(source, "__getitems__")

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        self._fill()
        if self.known_labels[row] < 0:
            self._keep(row, *self.source[row])
        return self.images[row], int(self.known_labels[row])

    def rows_to_read(self, rows: np.ndarray) -> np.ndarray:
        """Returns the places in `rows` of those that are not in `images` yet."""
        self._fill()
        return np.flatnonzero(self.known_labels[rows] < 0)

    def _keep(self, row: int, image: bytes | np.ndarray, label: int) -> None:
        pixels = decode_image(image)
        if pixels.shape[:2] != tuple(self.image_size):
            raise UnreadableImage(f"{pixels.shape[0]}x{pixels.shape[1]} pixels, unlike the others of its set")
        self.images[row] = pixels
        self.known_labels[row] = label  # last: another thread may look

    def _fill(self) -> None:
        if self.filled:
            return
        with self.filling:
            if self.filled:
                return
            blocks = [range(first, min(first + BLOCK, len(self))) for first in range(0, len(self), BLOCK)]
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                list(tqdm(pool.map(self._fill_block, blocks), "decoding", len(blocks), leave=False, disable=None))
            self.filled = True

    def _fill_block(self, rows: range) -> None:
        """Keeps the rows that can be read; the others are met, and named, one by one."""
        with contextlib.suppress(OSError, ValueError):
            for row, (image, label) in zip(rows, self.source.__getitems__(rows), strict=True):
                with contextlib.suppress(UnreadableImage):
                    self._keep(row, image, label)


class KeptImages(_Kept):
    """Images of many sizes, decoded when first asked for and kept until `room` bytes are taken.

    Those that there is no room for are decoded each time, but as whole as the others.
    """

    def __init__(self, source: Source, room: float):
        super().__init__(source, room)
        self.rows: list[tuple[np.ndarray, int] | None] = [None] * len(source)
        self.taken = 0

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        if self.rows[row] is not None:
            return self.rows[row]
        image, label = self.source[row]
        pixels = decode_image(image)
        if self.taken < self.room:
            self.rows[row] = pixels, label
            self.taken += pixels.nbytes
        return pixels, label
