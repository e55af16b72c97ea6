"""Where examples come from: one random-access protocol for digits, TFDS sets, folders and arrays."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from tqdm import tqdm

from vit_jax.data.folder import folder_source, folder_split_range
from vit_jax.data.splits import split_range
from vit_jax.data.tfds_source import tfds_source, tfds_split_lengths
from vit_jax.errors import UserError


class Source(Protocol):
    """A random-access set of labelled images.

    `class_names` are in the order of the labels; `image_size` is (height, width) where all images share it, else None.
    A source may have a method `describe(row)`, which returns what a message calls an example that cannot be read, an
    array `labels` of every row's label, -1 where it cannot be read, and a method `__getitems__(rows)` that reads many
    rows at once. A row that cannot be read raises an `OSError` or a `ValueError`.
    """

    class_names: Sequence[str]
    image_size: tuple[int, int] | None

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[np.ndarray | bytes, int]:
        """Returns the image and the label of one row: pixels, uint8 `[height, width, 3]`, or the bytes of a file."""
        ...


def describe(source: Source, row: int) -> str:
    """Returns what a message calls a row."""
    return source.describe(row) if hasattr(source, "describe") else f"row {row}"


def labels_of(source: Source) -> np.ndarray:
    """Returns the label of every row, int `[rows]`, -1 where it cannot be read.

    Reads every row where the source has no `labels`.
    """
    labels = getattr(source, "labels", None)  # TFDS sets read them when asked: once
    if labels is not None:
        return np.asarray(labels)
    return np.array([_label(source, row) for row in tqdm(range(len(source)), "reading labels", disable=None)], np.int32)


def _label(source: Source, row: int) -> int:
    try:
        return source[row][1]
    except (OSError, ValueError):
        return -1


@dataclasses.dataclass
class ArraySource:
    """Images in memory: uint8 `[rows, height, width, 3]` and integer labels `[rows]`.

    Raises:
      UserError: shapes or types are not those.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]

    def __post_init__(self):
        self.images, self.labels = np.asarray(self.images), np.asarray(self.labels)
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise UserError(
                f"images must be uint8 [rows, height, width, 3], not {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise UserError(f"{len(self.images)} images have labels of shape {self.labels.shape}")
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise UserError(f"labels must be integers, not {self.labels.dtype}")
        strangers = self.labels[(self.labels < 0) | (self.labels >= len(self.class_names))]
        if strangers.size:
            raise UserError(f"label {strangers[0]} is none of the {len(self.class_names)} classes, 0 to n-1")
        self.image_size = self.images.shape[1:3]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return self.images[row], int(self.labels[row])


DIGITS_TEST_ROWS = 360
"""A fifth of scikit-learn's 1,797 digits, drawn once; the other 1,437 train."""


def digits_source(split: str) -> ArraySource:
    """Returns scikit-learn's 8x8 handwritten digits (Alpaydin & Kaynak 1998), grey 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    shuffled = np.random.Generator(np.random.Philox(key=0)).permutation(len(grey))
    parts = {"train": shuffled[:-DIGITS_TEST_ROWS], "test": shuffled[-DIGITS_TEST_ROWS:]}
    name, rows = split_range(split, {part: len(members) for part, members in parts.items()})
    chosen = parts[name][np.array(rows, np.int64)]
    images = np.repeat(grey[chosen, :, :, None], 3, axis=3)
    return ArraySource(images, digits.target[chosen].astype(np.int32), [str(i) for i in range(10)])


def splits_overlap(name: str, one: str, other: str, directory: str | None = None) -> bool:
    """Returns whether two splits of a set share examples.

    Raises:
      UserError: there is no such set or split, or it has not been prepared.
    """
    parts = [[_rows_of(name, part, directory) for part in split.split("+")] for split in (one, other)]
    return any(a == b and range(max(x.start, y.start), min(x.stop, y.stop)) for a, x in parts[0] for b, y in parts[1])


def _rows_of(name: str, split: str, directory: str | None) -> tuple[str, range]:
    if name.startswith(FOLDER):
        return folder_split_range(name.removeprefix(FOLDER), split)
    if name == "digits":
        return split_range(split, {part: len(digits_source(part)) for part in ("train", "test")})
    return split_range(split, tfds_split_lengths(name, directory))


FOLDER = "folder:"


def open_source(name: str, split: str, directory: str | None = None) -> Source:
    """Returns a split of `digits`, of `folder:PATH` or of a TFDS classification set.

    Args:
      name: `digits`; `folder:PATH` (see `vit_jax.data.folder`); or a name (and config) that TFDS knows: `cifar10`.
      split: TFDS split syntax.
      directory: where prepared TFDS sets are; None is TFDS's default.

    Raises:
      UserError: there is no such set or split, or it is not prepared and cannot be prepared by itself.
    """
    if name == "digits":
        source = digits_source(split)
    elif name.startswith(FOLDER):
        source = folder_source(name.removeprefix(FOLDER), split)
    else:
        source = tfds_source(name, split, directory)
    if not len(source):
        raise UserError(f"{name}: split {split!r} is empty")
    return source
