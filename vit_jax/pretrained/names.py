"""Tables of names: which array of a foreign file holds which parameters of ours, and how it is turned.

One table serves both ways: a reader walks it to find our parameters in a file, a writer to make the file of them.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vit_jax.errors import UserError

Shape = tuple[int, ...]


class Plain:
    """The same array, but for axes of length 1."""

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns one array of ours for each of `shapes`, or raises a `ValueError` where it does not fit."""
        if [n for n in array.shape if n != 1] != [n for n in shapes[0] if n != 1]:
            raise ValueError
        return [array.reshape(shapes[0])]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the foreign array."""
        return arrays[0]


class Flat:
    """The same numbers without the heads' axis: the bias of a projection."""

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        if array.shape != (math.prod(shapes[0]),):
            raise ValueError
        return [array.reshape(shapes[0])]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].reshape(-1)


@dataclasses.dataclass(frozen=True)
class Transposed:
    """A PyTorch linear layer, `[outputs, inputs]`, whose inputs are the first `in_axes` axes of ours."""

    in_axes: int = 1

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        shape = shapes[0]
        if array.shape != (math.prod(shape[self.in_axes :]), math.prod(shape[: self.in_axes])):
            raise ValueError
        return [np.ascontiguousarray(array.T).reshape(shape)]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].reshape(math.prod(arrays[0].shape[: self.in_axes]), -1).T


class Convolution:
    """A PyTorch convolution, `[outputs, inputs, height, width]`; ours is `[height, width, inputs, outputs]`."""

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        if array.ndim != 4 or array.transpose(2, 3, 1, 0).shape != tuple(shapes[0]):
            raise ValueError
        return [array.transpose(2, 3, 1, 0)]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].transpose(3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Packed:
    """Several arrays of equal size, one after the other along the first axis, each in the form of `each`."""

    each: Flat | Transposed

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        if not array.ndim:
            raise ValueError
        parts = np.split(array, len(shapes))
        return [self.each.read(part, [shape])[0] for part, shape in zip(parts, shapes, strict=True)]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([self.each.write([array]) for array in arrays])


@dataclasses.dataclass(frozen=True)
class HeadByHead:
    """What several projections make for the first head, then for the second, … (LeViT); kernels and biases alike.

    The foreign array is `[heads * (features of the first + of the second + …), inputs]`, ours `[inputs, heads,
    features]` each; of biases likewise without inputs.
    """

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        inputs, heads, sizes = shapes[0][:-2], shapes[0][-2], [shape[-1] for shape in shapes]
        if array.shape != (heads * sum(sizes), *inputs):
            raise ValueError
        parts = np.split(array.reshape(heads, sum(sizes), *inputs), np.cumsum(sizes)[:-1], axis=1)
        return [np.ascontiguousarray(np.moveaxis(part, (0, 1), (-2, -1))) for part in parts]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        together = np.moveaxis(np.concatenate(arrays, axis=-1), (-2, -1), (0, 1))
        return together.reshape(-1, *together.shape[2:])


class Stacked:
    """The same parameter of all layers in one array with a leading axis, as scanned layers are saved."""

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        if array.shape != (len(shapes), *shapes[0]):
            raise ValueError
        return list(array)

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(arrays)


class Rows:
    """Matrices one after the other along the first axis; all axes of ours but the last make the rows of each."""

    def read(self, array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        counts = [math.prod(shape[:-1]) for shape in shapes]
        if array.shape != (sum(counts), shapes[0][-1]):
            raise ValueError
        parts = np.split(array, np.cumsum(counts)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def write(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])


Form = Plain | Flat | Transposed | Convolution | Packed | HeadByHead | Stacked | Rows


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a foreign file: its name, the parameters of ours that it holds, and how they lie in it."""

    theirs: str
    ours: tuple[str, ...]
    form: Form


def entry(theirs: str, ours: str | Sequence[str], form: Form | None = None) -> Entry:
    """Returns an entry; the form is that of the same array where none is given."""
    return Entry(theirs, (ours,) if isinstance(ours, str) else tuple(ours), form or Plain())


def read(
    table: Iterable[Entry], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns our parameters by their flat names, and the names in the file that the table does not know.

    Args:
      arrays: the foreign file.
      shapes: of our parameters.
      where: the file's name, for messages.

    Raises:
      UserError: an array is missing or of another shape, or parameters of ours are in no array.
    """
    found, used = {}, set()
    for item in table:
        if item.theirs not in arrays:
            raise UserError(f"{where}: {item.theirs} is missing; the file is incomplete or of another architecture")
        array = arrays[item.theirs]
        wanted = [shapes[name] for name in item.ours]
        try:
            parts = item.form.read(array, wanted)
        except ValueError:
            raise UserError(
                f"{where}: {item.theirs} has shape {array.shape}, which does not fit {item.ours[0]} {tuple(wanted[0])}"
            ) from None
        found |= dict(zip(item.ours, parts, strict=True))
        used.add(item.theirs)
    if missing := sorted(shapes.keys() - found.keys()):
        raise UserError(f"{where}: nothing in the file holds {missing[0]} and {len(missing) - 1} more")
    return found, [name for name in arrays if name not in used]


def write(table: Iterable[Entry], params: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """Returns the foreign arrays that hold our flat parameters.

    Raises:
      UserError: the format has no place for a parameter.
    """
    arrays, placed = {}, set()
    for item in table:
        arrays[item.theirs] = np.ascontiguousarray(item.form.write([params[name] for name in item.ours]))
        placed |= set(item.ours)
    if left := sorted(params.keys() - placed):
        raise UserError(f"the {kind} format has no place for {left[0]}{_and_more(len(left) - 1)}")
    return arrays


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def families(names: Iterable[str]) -> list[str]:
    """Returns names in which the numbers of repeated blocks are written once: `blocks.{0..11}.norm1.weight`."""
    grouped = collections.defaultdict(set)
    for name in names:
        parts = _numbered(name)
        grouped[parts[0], parts[2]].add(parts[1])
    lines = []
    for (before, after), numbers in grouped.items():
        known = sorted(n for n in numbers if n is not None)
        middle = "" if not known else str(known[0]) if len(known) == 1 else f"{{{_ranges(known)}}}"
        lines.append(before + middle + after)
    return lines


def _numbered(name: str) -> tuple[str, int | None, str]:
    """Splits `encoder/block_3/norm` at the number of its block; names without one are left whole."""
    for separator in ("/", "."):
        parts = name.split(separator)
        for i, part in enumerate(parts[:-1]):
            stem, _, number = part.rpartition("_") if separator == "/" else ("", "", part)
            if number.isdigit():
                head = separator.join([*parts[:i], f"{stem}_" if stem else ""])
                return head, int(number), separator + separator.join(parts[i + 1 :])
    return name, None, ""


def _ranges(numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}..{numbers[-1]}" if whole else ",".join(map(str, numbers))
