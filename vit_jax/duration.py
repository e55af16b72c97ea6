"""Durations with their unit, as every config key that names one takes them."""

import dataclasses
import math
import re

from vit_jax.errors import UserError

_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(epochs?|steps?|examples?|%)\s*")


@dataclasses.dataclass(frozen=True)
class Clock:
    """What turns a duration into steps: the training set's size, the global batch, the training's length."""

    examples_per_epoch: int
    batch_size: int
    total_steps: int | None = None


def to_steps(text: str, clock: Clock, key: str) -> int:
    """Returns the number of steps, rounded to the nearest, that `text` stands for.

    Args:
      text: "50 epochs", "500 steps", "1.28e6 examples" or "5%" (of the whole training).
      clock: sizes of the run. Without `total_steps` a percentage is refused.
      key: the config key, for the message.

    Raises:
      UserError: the text is no duration, or a percentage where there is nothing to take it of.
    """
    match = _PATTERN.fullmatch(text)
    if match is None or math.isinf(float(match[1])):
        raise UserError(
            f"{key}: {text!r} is no duration; write a number and its unit, such as '50 epochs', '500 steps', "
            "'1e6 examples' or '5%'"
        )
    number, unit = float(match[1]), match[2].rstrip("s")
    if unit == "step":
        steps = number
    elif unit == "example":
        steps = number / clock.batch_size
    elif unit == "epoch":
        steps = number * clock.examples_per_epoch / clock.batch_size
    elif clock.total_steps is None:
        raise UserError(f"{key}: {text!r} is a share of the training's length, which this key itself sets")
    else:
        steps = number / 100 * clock.total_steps
    return round(steps)
