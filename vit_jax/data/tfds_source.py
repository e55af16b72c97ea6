"""A split of a TFDS classification set: the bytes of its image files and their labels, without TensorFlow."""

import concurrent.futures
import contextlib
import functools
import io
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from vit_jax.data import preparation
from vit_jax.data.imagenet import readable
from vit_jax.errors import UserError, nearest

FILES_AT_ONCE = 16
"""Files that are opened side by side to count their records: 0.7 ms each on a local disk, more over a network."""

LABELS_AT_ONCE = 1000
"""Records that are read together for their labels."""


class TfdsSource:
    """A split of a set that is prepared as array_record.

    A row is (bytes of the encoded image file, label). `class_names` are in the order of the labels, ImageNet's
    in words; `image_size` is (height, width) where the set says that all images share it, else None. It is pickled as
    paths, for worker processes, without labels that have been read.

    Raises:
      UserError: there is no such split, it is empty, or a file of it is missing or cut short.
    """

    def __init__(self, builder, split: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        info = builder.info
        try:
            if info.splits[split].num_examples < 1:
                raise ValueError("it is empty")
            files = list(info.splits[split].file_instructions)
        except (ValueError, KeyError) as error:
            raise UserError(f"{info.full_name}: cannot read split {split!r}: {error}") from error
        _require_whole(info.full_name, files)
        self.name = f"{info.full_name} {split}"
        self.records = ArrayRecordDataSource(files)
        self.class_names = readable(list(info.features["label"].names))
        height, width, _ = info.features["image"].shape
        self.image_size = (height, width) if height and width else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        """Returns the encoded image file and the label of a row.

        Raises:
          OSError: the record is damaged.
        """
        return _example(_features(self._record(row)))

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[bytes, int]]:
        """Returns many rows at once. Where records lie in groups, this is far faster: each group is unpacked once.

        Raises:
          OSError: one of the records is damaged.
        """
        try:
            records = self.records.__getitems__(rows)
        except RuntimeError as error:
            raise OSError(f"a record is damaged: {error}") from error
        return [_example(_features(record)) for record in records]

    @functools.cached_property
    def labels(self) -> Int[np.ndarray, "rows"]:
        """The label of every row, -1 where the record is damaged. Every record is read for it, no image decoded."""
        blocks = [range(first, min(first + LABELS_AT_ONCE, len(self))) for first in range(0, len(self), LABELS_AT_ONCE)]
        labels = np.full(len(self), -1, np.int32)
        for rows in tqdm(blocks, "reading labels", leave=False, disable=None):
            try:
                labels[rows.start : rows.stop] = [label for _, label in self.__getitems__(rows)]
            except OSError:
                for row in rows:
                    with contextlib.suppress(OSError):
                        labels[row] = self[row][1]
        return labels

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "labels"}

    def describe(self, row: int) -> str:
        """Returns what a message calls a row: `imagenet2012/5.1.0 train row 17 (n01440764_10026.JPEG)`."""
        try:
            names = _features(self._record(row))["file_name"].bytes_list.value
        except OSError:
            names = ()
        return f"{self.name} row {row}" + "".join(f" ({name.decode(errors='replace')})" for name in names[:1])

    def _record(self, row: int) -> bytes:
        try:
            return self.records[row]
        except RuntimeError as error:
            raise OSError(f"the record is damaged: {error}") from error


def _features(record: bytes):
    # The fields are taken from the record themselves: TFDS's own decoding takes five times as long.
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        return tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise OSError(f"the record is damaged: {error}") from error


def _example(features) -> tuple[bytes, int]:
    try:
        return features["image"].bytes_list.value[0], int(features["label"].int64_list.value[0])
    except IndexError as error:
        raise OSError("the record holds no image or no label") from error


def _require_whole(name: str, files: list) -> None:
    """Raises `UserError` unless every file is there and holds the records that the set's metadata counts."""
    from array_record.python.array_record_module import ArrayRecordReader

    def records_in(file) -> int | None:
        if not pathlib.Path(file.filename).is_file():
            return None
        reader = ArrayRecordReader(file.filename, options="readahead_buffer_size:0", file_reader_buffer_size=32768)
        records = reader.num_records()  # 0 where the file's end is missing, of which only `close` complains
        with contextlib.suppress(RuntimeError):
            reader.close()
        return records

    with concurrent.futures.ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, records in zip(files, pool.map(records_in, files), strict=True):
            if records == file.examples_in_shard:
                continue
            found = "is missing" if records is None else f"is damaged: {records} of {file.examples_in_shard} records"
            directory = pathlib.Path(file.filename).parent
            raise UserError(f"{name}: {file.filename} {found}; move {directory} away and prepare the set again")


def tfds_source(name: str, split: str, directory: str | None = None) -> TfdsSource:
    """Returns a split of a set, which is prepared first where that is possible without a person.

    Args:
      name: a name (and config and version) that TFDS knows: `cifar10`, `imagenet2012:5.1.0`.
      split: TFDS split syntax.
      directory: where prepared TFDS sets are; None is TFDS's default.

    Raises:
      UserError: there is no such set or split, it is damaged, or it is not prepared and cannot be prepared by itself.
    """
    return TfdsSource(_prepared_builder(name, directory), split)


def tfds_split_lengths(name: str, directory: str | None = None) -> dict[str, int]:
    """Returns how many rows every whole split of a set has; prepares the set as `tfds_source` does.

    Raises:
      UserError: there is no such set, or it is not prepared and cannot be prepared by itself.
    """
    return {split: info.num_examples for split, info in _prepared_builder(name, directory).info.splits.items()}


def find_builder(name: str, directory: str | None):
    """Returns TFDS's builder of a classification set, prepared or not.

    Raises:
      UserError: there is no such set (with the nearest name), config or version, its metadata in `directory` is
        damaged, or it has not one image and one label.
    """
    import tensorflow_datasets as tfds

    place = str(pathlib.Path(directory).expanduser()) if directory else None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints a banner where a builder misses TensorFlow
            builder = tfds.builder(name, data_dir=place)
    except Exception as error:  # of names, and of the parsers of JSON, protobuf and TFDS's features
        raise UserError(_why_no_builder(name, place, error)) from error
    features = builder.info.features or {}
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if not all(feature in features and isinstance(features[feature], kind) for feature, kind in kinds.items()):
        raise UserError(f"{name} is no classification set: it has {', '.join(features)}, not one image and one label")
    return builder


def _why_no_builder(name: str, place: str | None, error: Exception) -> str:
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]
    root = pathlib.Path(place or tfds.core.constants.DATA_DIR).expanduser()
    for facts in sorted((root / base).glob("**/dataset_info.json")) if base.isidentifier() else ():
        try:
            if not facts.parent.name.startswith("incomplete."):  # left by a preparation that was killed
                tfds.builder_from_directory(facts.parent)
        except Exception as damage:
            reason = preparation.first_line(damage)
            return f"the metadata of {name} in {facts.parent} cannot be read: {reason}; prepare the set elsewhere"
    known = ["digits", *tfds.list_builders(with_community_datasets=False)]  # the community's need TensorFlow
    close = "" if base in known else nearest(name, known)
    if isinstance(error, tfds.core.registered.DatasetNotFoundError):
        return f"no data set {name!r}{close}"
    return f"data set {name!r}: {preparation.first_line(error)}{close}"


def _prepared_builder(name: str, directory: str | None):
    if directory is not None and not pathlib.Path(directory).expanduser().is_dir():
        raise UserError(f"data.dir {directory!r} is no directory")
    builder = find_builder(name, directory)
    if not preparation.is_prepared(builder):
        preparation.prepare_unattended(builder, name, directory)
    formats = preparation.formats(builder)
    if "array_record" not in formats:
        raise UserError(preparation.why_not_readable(builder, name, directory))
    if formats != ["array_record"]:
        builder.info.set_file_format("array_record", override=True, override_if_initialized=True)
    return builder
