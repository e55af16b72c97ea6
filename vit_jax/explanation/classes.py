"""Which class a person means."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vit_jax.errors import UserError, nearest
from vit_jax.inference.picture_model import PictureModel

Class = int | str
"""A number counted from 0, or a name."""


def class_number(model: PictureModel, given: Class) -> int:
    """Returns the number of a class, given by its name, one of its names with commas between, or its number.

    A text that is a name is taken as that, though it be digits.

    Raises:
      UserError: the model has no such class.
    """
    if not model.num_classes:
        raise UserError(f"{model.source} has no classifier, so no class {given!r}")
    names = model.class_names or []
    if isinstance(given, str):
        for number, name in enumerate(names):
            if given.casefold() in [name.casefold(), *(part.strip().casefold() for part in name.split(","))]:
                return number
    if not isinstance(given, str) or given.isdecimal():
        if 0 <= int(given) < model.num_classes:
            return int(given)
        raise UserError(f"{model.source} has classes 0 to {model.num_classes - 1}, no class {given}")
    if not names:
        raise UserError(f"{model.source} has no names of classes; give a number from 0 to {model.num_classes - 1}")
    raise UserError(f"{model.source} has no class {given!r}{nearest(given, names)}")


def class_numbers(
    model: PictureModel, classes: Class | Sequence[Class] | None, count: int
) -> Int[np.ndarray, "pictures"] | None:
    """Returns the number of a class for each picture; None where the model shall choose.

    Raises:
      UserError: there is no such class, or there are more or fewer than pictures.
    """
    if classes is None:
        return None
    single = isinstance(classes, str | int | np.integer)
    each = [classes] * count if single else list(classes)
    if len(each) != count:
        raise UserError(f"{count} pictures have {len(each)} classes; give one for all, or one for each")
    return np.array([class_number(model, given) for given in each])
