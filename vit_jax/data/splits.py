"""TFDS split syntax for sources that are not TFDS's own."""

import re

from vit_jax.errors import UserError

_SLICE = re.compile(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def split_range(spec: str, lengths: dict[str, int]) -> tuple[str, range]:
    """Returns the split's name and the rows that `train`, `train[:98%]` or `test[100:200]` stands for.

    Percentages are rounded as TFDS rounds them (to the nearest row, halves to even), so that `train[:p%]` and
    `train[p%:]` share no row and leave none out.

    Raises:
      UserError: the syntax is wrong, or there is no such split.
    """
    match = _SLICE.fullmatch(spec.strip())
    if match is None:
        raise UserError(f"split {spec!r} is not TFDS split syntax, such as 'train', 'train[:98%]' or 'test[100:200]'")
    name = match[1]
    if name not in lengths:
        raise UserError(f"no split {name!r}; there are {', '.join(sorted(lengths))}")
    rows = range(lengths[name])
    start, stop = (_bound(text, len(rows)) for text in match.group(2, 3))
    if max(abs(start or 0), abs(stop or 0)) > len(rows):
        raise UserError(f"split {spec!r} reaches beyond the {len(rows)} rows of {name!r}")
    return name, rows[start:stop]


def _bound(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    return round(int(text[:-1]) * length / 100) if text.endswith("%") else int(text)
