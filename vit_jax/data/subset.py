"""Some of the classes of a set, numbered anew: `data.classes="cat, dog"`."""

import csv
import re
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from vit_jax.data.sources import ArraySource, Source, describe, labels_of
from vit_jax.errors import UserError, nearest

RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")


class Subset:
    """The rows of some classes of a source, in the source's order; the n-th of the classes has label n.

    Attributes:
      rows: the rows of `source` that these are.
      labels: positions in `class_names`.
    """

    def __init__(
        self, source: Source, rows: Int[np.ndarray, "rows"], labels: Int[np.ndarray, "rows"], names: list[str]
    ):
        self.source, self.rows, self.labels, self.class_names = source, rows, labels, names
        self.image_size = source.image_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[np.ndarray | bytes, int]:
        """Returns the image and the new label of a row; raises what the source raises."""
        return self.source[int(self.rows[row])][0], int(self.labels[row])

    def describe(self, row: int) -> str:
        """Returns what a message calls a row: what the source calls it."""
        return describe(self.source, int(self.rows[row]))


class BlockSubset(Subset):
    """Of a source that reads many rows at once."""

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[np.ndarray | bytes, int]]:
        """Returns many rows at once; raises what the source raises."""
        images = self.source.__getitems__([int(self.rows[row]) for row in rows])
        return [(image, int(self.labels[row])) for (image, _), row in zip(images, rows, strict=True)]


def subset(source: Source, classes: str | None) -> Source:
    """Returns the rows of some classes of a source, or the source itself where `classes` is None.

    Labels are read first, all of them where the source has none at hand. A row whose label cannot be read is in no
    class, and is said.

    Args:
      classes: see `chosen_classes`; the order given is that of the new labels.

    Raises:
      UserError: a class is unknown, there are fewer than two, or the source has no row of them.
    """
    if classes is None:
        return source
    chosen = chosen_classes(classes, source.class_names)
    new_label = np.full(len(source.class_names) + 1, -1, np.int32)  # its last place is that of the label -1
    new_label[chosen] = np.arange(len(chosen))
    old = labels_of(source)
    if lost := np.flatnonzero(old < 0).tolist():
        first = describe(source, lost[0])
        tqdm.write(f"cannot read {len(lost)} labels, of {first} the first: left out of data.classes", file=sys.stderr)
    labels, names = new_label[old], [source.class_names[position] for position in chosen]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise UserError(f"no image is of the classes {', '.join(names)} (data.classes) in one of the splits")
    if isinstance(source, ArraySource):
        return ArraySource(source.images[rows], labels[rows], names)
    return (BlockSubset if hasattr(source, "__getitems__") else Subset)(source, rows, labels[rows], names)


def chosen_classes(text: str, class_names: Sequence[str]) -> list[int]:
    """Returns the positions of the classes that a text names.

    Names stand as they are, in double quotes where they hold a comma; positions from 0 as numbers or ranges:
    `cat, dog` or `0, 3, 5-7`. Where some class is called by a number, as digits are, all numbers are names.

    Raises:
      UserError: one is unknown (the nearest name is given) or named twice, or there are fewer than two.
    """
    names = list(class_names)
    words = [word.strip() for word in next(csv.reader([text], skipinitialspace=True), [])]
    chosen = []
    for word in _ranges_written_out(filter(None, words), names):
        if word in names:
            position = names.index(word)
        elif word.isdecimal() and int(word) < len(names) and not any(name.isdecimal() for name in names):
            position = int(word)
        else:
            raise UserError(
                f"data.classes: no class {word!r}{nearest(word, names)} among {len(names)}, which are called "
                f"{names[0]!r} to {names[-1]!r}"
            )
        if position in chosen:
            raise UserError(f"data.classes names class {names[position]!r} twice")
        chosen.append(position)
    if len(chosen) < 2:
        raise UserError(f"data.classes must name at least 2 classes, not {text!r}")
    return chosen


def _ranges_written_out(words: Iterable[str], names: list[str]) -> Iterable[str]:
    for word in words:
        bounds = RANGE.fullmatch(word)
        if bounds is None or word in names or not int(bounds[1]) <= int(bounds[2]):
            yield word
        else:
            # One past the last name is unknown already: a range without end would fill the memory.
            stop = min(int(bounds[2]) + 1, int(bounds[1]) + len(names) + 1)
            yield from map(str, range(int(bounds[1]), stop))
