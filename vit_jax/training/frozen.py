"""Which parameters are trained, and which stay as they are.

Frozen parameters are kept apart from the others before gradients are taken. So the backward pass ends at the first
layer that is trained, and neither the optimizer's state, nor weight decay, nor any norm of gradients knows of them.
"""

import re
from collections.abc import Iterable

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from vit_jax.errors import UserError

FROZEN_WITH_LORA = r"^(?!lora/|head(_\w+)?/)"
"""What is frozen where LoRA is on and `optimizer.frozen` is not set: all but its factors and the head."""


def frozen_pattern(config: ConfigDict, params: dict) -> str | None:
    """Returns the regular expression of the parameters that are not trained, or None where all are.

    Args:
      params: all parameters, LoRA's factors included, maybe abstract.

    Raises:
      UserError: `optimizer.frozen` is no regular expression, or matches no parameter, all of them, or all of LoRA's.
    """
    names = list(flatten_dict(params, sep="/"))
    pattern = config.optimizer.frozen
    if pattern is None:
        return FROZEN_WITH_LORA if any(name.startswith("lora/") for name in names) else None
    frozen = set(matching("optimizer.frozen", pattern, names))
    if not frozen:
        raise UserError(f"optimizer.frozen {pattern!r} matches no parameter; they are called {some(names)}")
    if len(frozen) == len(names):
        raise UserError(f"optimizer.frozen {pattern!r} matches every parameter: nothing would be trained")
    factors = {name for name in names if name.startswith("lora/")}
    if factors and factors <= frozen:
        raise UserError(
            f"optimizer.frozen {pattern!r} matches all of LoRA's factors ({some(factors)}): they would stay zero; "
            "exempt lora/, or set lora.rank=0"
        )
    return pattern


def matching(key: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Returns the names in which a config key's regular expression is found.

    Raises:
      UserError: it is none.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"{key} {pattern!r} is no regular expression: {error}") from error
    return [name for name in names if compiled.search(name)]


def some(names: Iterable[str]) -> str:
    """Returns up to three of the names, for a message."""
    names = sorted(names)
    shown = names if len(names) < 4 else [names[0], names[len(names) // 2], names[-1]]
    return ", ".join(shown) + ("" if len(names) == len(shown) else ", …")


def split(params: dict, frozen: str | None) -> tuple[dict, dict]:
    """Returns the parameters that are trained, and those whose names the regular expression `frozen` is found in.

    Each is a tree that has only its own names; `joined` puts them together again.
    """
    if frozen is None:
        return params, {}
    parts = {}, {}
    for name, leaf in flatten_dict(params, sep="/").items():
        parts[re.search(frozen, name) is not None][name] = leaf
    trained, kept = (unflatten_dict(part, sep="/") for part in parts)
    return trained, kept


def joined(trained: dict, frozen: dict) -> dict:
    """Returns the tree of which `split` made these two."""
    if not frozen:
        return trained
    return unflatten_dict({**flatten_dict(trained, sep="/"), **flatten_dict(frozen, sep="/")}, sep="/")
