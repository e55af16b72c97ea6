"""How the configs of two runs differ, and which differences a continued run may have."""

import dataclasses
import json

from vit_jax.config import DEFAULT_MODEL, default_config, flatten
from vit_jax.config_fill import fill_augment, fill_data
from vit_jax.models.registry import architecture, field_types

MATHEMATICS_FREE = (
    "data.dir",
    "data.workers",
    "data.max_bad",
    "data.eval_split",
    "train.log_every",
    "train.on_nonfinite",
    "train.rewinds",
    "model.attention_kernel",
    "model.fused_qkv",
    "model.merge_tokens",
    "model.remat",
    "model.scan_layers",
    "eval",
    "checkpoint",
    "mesh",
)
"""Keys, and groups of keys, that leave the mathematics of a training run alone: a continued run may change them."""


def leaves_mathematics_alone(key: str) -> bool:
    """Returns whether a dotted key is one of `MATHEMATICS_FREE`, or in one of its groups."""
    return any(key == free or key.startswith(free + ".") for free in MATHEMATICS_FREE)


def differences(saved: dict[str, object], new: dict[str, object]) -> tuple[list[str], list[str]]:
    """Returns what differs between two flattened configs: lines that a continued run may ignore, and the others."""
    saved, new = _completed(saved), _completed(new)
    allowed, refused = [], []
    for key in sorted(saved.keys() | new.keys()):
        old_value, new_value = saved.get(key), new.get(key)
        if old_value != new_value:
            (allowed if leaves_mathematics_alone(key) else refused).append(f"{key} was {old_value!r}, is {new_value!r}")
    return allowed, refused


def _completed(flat: dict[str, object]) -> dict[str, object]:
    """Returns a flattened config with every default filled in, the architecture's too."""
    arch = architecture(flat.get("model.name") or DEFAULT_MODEL)
    model = {field.name: field.default for field in dataclasses.fields(arch.module)} | arch.fields
    model = {f"model.{name}": model[name] for name in field_types(arch.module) if name != "num_classes"}
    defaults = default_config()
    fill_augment(defaults)
    fill_data(defaults, None)
    return {**flatten(defaults), **json.loads(json.dumps(model)), **flat}
