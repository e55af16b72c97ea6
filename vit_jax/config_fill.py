"""What stands in for config keys that are left open: the preset's augmentation, the weights' model and view."""

import dataclasses
import functools
import typing

from ml_collections import ConfigDict

from vit_jax.data.presets import preset
from vit_jax.errors import UserError
from vit_jax.models.registry import architecture, field_types
from vit_jax.pretrained.surgery import RESIZES

if typing.TYPE_CHECKING:
    from vit_jax.pretrained.weights import Weights

HALF = (0.5, 0.5, 0.5)

RUN_FIELDS = (
    "num_classes",
    "patch_dropout",
    "dropout",
    "attention_dropout",
    "drop_path",
    "attention_kernel",
    "fused_qkv",
    "merge_tokens",
    "remat",
    "scan_layers",
    "dtype",
    "param_dtype",
)
"""Model fields that belong to a run, not to weights."""


def fields_of_weights(name: str, given: dict[str, object], weights: "Weights", whole: bool) -> dict[str, object]:
    """Returns the fields that a model takes from weights, those that its name or the config does not settle.

    Raises:
      UserError: the name stands for another architecture than that of the weights.
    """
    found = architecture(name)
    theirs = {key: getattr(weights.module, key) for key in field_types(type(weights.module))}
    if not (issubclass(found.module, type(weights.module)) or issubclass(type(weights.module), found.module)):
        return {}  # `surgery.fit` says why they do not fit
    fixed = found.fields if name != weights.name else {}  # a run may have overridden what its name stands for
    for key, value in fixed.items():
        if key in theirs and key not in (*RUN_FIELDS, *given, "patch_size") and theirs[key] != value:
            raise UserError(
                f"{weights.source} has {key} {theirs[key]!r}, but model {name!r} has {value!r}; "
                "leave model.name unset to take the architecture of the weights"
            )
    left_out = {*RUN_FIELDS, "head_bias", *(() if whole else ("pre_logits", "head"))}
    known = {field.name: field.default for field in dataclasses.fields(found.module)} | found.fields
    return {
        key: value
        for key, value in theirs.items()
        if key in known and key not in (*left_out, *fixed) and value != known[key]
    }


def fill_data(config: ConfigDict, weights: "Weights | None") -> None:
    """Gives the preprocessing keys that are None what the weights were trained with, or else the plain defaults."""
    data, seen = config.data, None if weights is None else weights.preprocessing
    if seen is not None:
        if data.image_size is None and seen.size[0] == seen.size[1]:
            data.image_size = seen.size[0]
        if data.resize is None and data.image_size is not None:
            data.resize = seen.at_size((data.image_size, data.image_size)).resize
    for key, default in (("interpolation", "bilinear"), ("antialias", True), ("mean", HALF), ("std", HALF)):
        if data[key] is None:
            data[key] = default if seen is None else getattr(seen, key)


def fill_augment(config: ConfigDict) -> None:
    """Gives the augmentation keys that are None the values of the preset.

    Raises:
      UserError: there is no such preset.
    """
    try:
        values = preset(config.augment.preset)
    except ValueError as error:
        raise UserError(str(error)) from error
    for key, value in values.items():
        *groups, last = key.split(".")
        group = functools.reduce(lambda inner, name: inner[name], groups, config.augment)
        if group[last] is None:
            group[last] = value


def check_on_nonfinite(config: ConfigDict) -> None:
    """Raises a `UserError` for anything but the two ways to go on after a loss that is not finite."""
    if config.train.on_nonfinite not in ("abort", "rewind"):
        raise UserError(f"train.on_nonfinite must be abort or rewind, not {config.train.on_nonfinite!r}")


def check_surgery(config: ConfigDict) -> None:
    """Raises a `UserError` for a surgery without weights, or of an unknown kind."""
    surgery = config.surgery
    if surgery.positions not in (None, *RESIZES):
        raise UserError(f"surgery.positions must be {' or '.join(RESIZES)}, not {surgery.positions!r}")
    if config.init_from is None and (surgery.positions or surgery.patches or surgery.new_head):
        raise UserError("surgery.* is set, but there are no weights to fit: set init_from")
