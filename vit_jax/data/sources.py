"""Where examples come from: one random-access protocol for digits, TFDS sets and arrays."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vit_jax.data.decode import decode_image
from vit_jax.data.splits import split_range
from vit_jax.errors import UserError, nearest


class Source(Protocol):
    """A random-access set of labelled images.

    `class_names` are in the order of the labels; `image_size` is (height, width) where all images share it, else None.
    """

    class_names: Sequence[str]
    image_size: tuple[int, int] | None

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        """Returns the uint8 image `[height, width, 3]` and the label of one row."""
        ...


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


class DecodedOnce:
    """Keeps decoded images of a small set, so that each file is read and decoded once a run.

    Rows are decoded when they are first asked for: training starts at once, and later epochs read memory.
    """

    def __init__(self, source: Source):
        self.source = source
        self.class_names, self.image_size = source.class_names, source.image_size
        self.rows: list[tuple[np.ndarray, int] | None] = [None] * len(source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        if self.rows[row] is None:
            self.rows[row] = self.source[row]
        return self.rows[row]


class TfdsSource:
    """A split of a prepared TFDS classification set, read without TensorFlow."""

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        try:
            if builder.info.splits[split].num_examples < 1:
                raise ValueError("it is empty")
            self.records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        except (ValueError, KeyError, NotImplementedError) as error:
            raise UserError(f"{builder.info.full_name}: cannot read split {split!r}: {error}") from error
        self.class_names = builder.info.features["label"].names
        height, width, _ = builder.info.features["image"].shape
        self.image_size = (height, width) if height and width else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        record = self.records[row]
        return decode_image(record["image"]), int(record["label"])


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
    lengths = _split_lengths(name, directory)
    parts = [[split_range(part, lengths) for part in split.split("+")] for split in (one, other)]
    return any(a == b and range(max(x.start, y.start), min(x.stop, y.stop)) for a, x in parts[0] for b, y in parts[1])


def _split_lengths(name: str, directory: str | None) -> dict[str, int]:
    if name == "digits":
        return {split: len(digits_source(split)) for split in ("train", "test")}
    return {split: info.num_examples for split, info in _prepared_builder(name, directory).info.splits.items()}


IN_MEMORY_BYTES = 2**31
"""A set whose decoded images need less than this is kept in memory."""


def open_source(name: str, split: str, directory: str | None = None) -> Source:
    """Returns a split of `digits` or of a TFDS classification set.

    Args:
      name: `digits`, or a name (and config) that TFDS knows: `cifar10`, `imagenet2012`.
      split: TFDS split syntax.
      directory: where prepared TFDS sets are; None is TFDS's default.

    Raises:
      UserError: there is no such set or split, or it has not been prepared (with the command that prepares it).
    """
    if name == "digits":
        source = digits_source(split)
        if not len(source):
            raise UserError(f"digits: split {split!r} is empty")
        return source
    source = TfdsSource(_prepared_builder(name, directory), split)
    return DecodedOnce(source) if len(source) * source[0][0].nbytes < IN_MEMORY_BYTES else source


def _prepared_builder(name: str, directory: str | None):
    import tensorflow_datasets as tfds

    if directory is not None and not pathlib.Path(directory).expanduser().is_dir():
        raise UserError(f"data.dir {directory!r} is no directory")
    place = f" --data_dir={directory}" if directory else ""
    try:
        builder = tfds.builder(name, data_dir=directory)
    except (ValueError, AssertionError, ImportError) as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]  # the community's need TensorFlow
        close = "" if re.split("[/:]", name)[0] in known else nearest(name, known)
        if isinstance(error, tfds.core.registered.DatasetNotFoundError):
            raise UserError(f"no data set {name!r}{close}") from error
        reason = str(error).splitlines()[0]  # TFDS goes on with lists
        raise UserError(f"data.name {name!r}: {reason}{close}") from error
    if not builder.is_prepared():
        raise UserError(
            f"{builder.info.full_name} is not prepared in {builder.data_dir}; "
            f"run: python -m vit_jax.prepare {name}{place}"
        )
    features = builder.info.features
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(feature in features and isinstance(features[feature], kind) for feature, kind in kinds.items()):
        raise UserError(f"{name} is no classification set: it has {', '.join(features)}, not one image and one label")
    return builder
