"""Names of architectures, and the models that they stand for."""

import dataclasses
import fnmatch
import types
import typing

import flax.linen as nn
import jax.numpy as jnp

from vit_jax.errors import UserError, nearest
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.hybrid import HybridVisionTransformer
from vit_jax.models.mixer import Mixer
from vit_jax.models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A module class and the fields that make it this architecture."""

    module: type[nn.Module]
    fields: dict[str, object]


_REGISTRY: dict[str, Architecture] = {}


def register(name: str, module: type[nn.Module], **fields) -> None:
    """Adds an architecture under `name`.

    Raises:
      ValueError: the name is taken.
    """
    if name in _REGISTRY:
        raise ValueError(f"model {name!r} is registered twice")
    _REGISTRY[name] = Architecture(module, fields)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of all architectures that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_REGISTRY, pattern))


def architecture(name: str) -> Architecture:
    """Returns the architecture of that name.

    Raises:
      UserError: there is none; the nearest name is given.
    """
    if name not in _REGISTRY:
        raise UserError(f"no model {name!r}{nearest(name, list(_REGISTRY))}; `vit_jax.list_models()` names all")
    return _REGISTRY[name]


def create_model(name: str, **overrides) -> nn.Module:
    """Returns the Linen module of an architecture, with fields replaced by `overrides`.

    Raises:
      UserError: the name or a field is unknown, or a value has the wrong type.
    """
    found = architecture(name)
    fields = field_types(found.module)
    checked = {key: check_field(name, fields, key, value) for key, value in overrides.items()}
    return found.module(**{**found.fields, **checked})


def name_of(module: type[nn.Module], fields: dict[str, object]) -> tuple[str, dict[str, object]]:
    """Returns the first name of that class whose fields agree with `fields`, and those that the name does not fix."""
    defaults = {field.name: field.default for field in dataclasses.fields(module)}
    full = {**defaults, **fields}
    for name, found in _REGISTRY.items():
        if found.module is not module:
            continue
        if all(full[key] == value for key, value in found.fields.items() if key != "num_classes"):
            known = {**defaults, **found.fields}
            return name, {key: value for key, value in fields.items() if known[key] != value}
    raise ValueError(f"no architecture of class {module.__name__} is registered")


def field_types(module: type[nn.Module]) -> dict[str, object]:
    """Returns the fields of a model class that a config may set, with their types."""
    hints = typing.get_type_hints(module)
    return {f.name: hints[f.name] for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def check_field(model: str, fields: dict[str, object], key: str, value: object) -> object:
    """Returns `value` as the field takes it: an int for a pair means both, an int for a float is converted.

    Raises:
      UserError: the model has no such field, or the value is of another type.
    """
    if key not in fields:
        raise UserError(f"model {model!r} has no field {key!r}{nearest(key, list(fields))}")
    expected = fields[key]
    options = (
        typing.get_args(expected) if isinstance(expected, types.UnionType | typing._UnionGenericAlias) else (expected,)
    )
    if key.endswith("dtype"):
        return _dtype_name(key, value)
    for option in options:
        converted = _converted(option, value)
        if converted is not _MISMATCH:
            return converted
    raise UserError(f"model.{key} must be {describe(expected)}, not {value!r}")


def _dtype_name(key: str, value: object) -> str:
    try:
        name = jnp.dtype(value).name
    except TypeError:
        name = str(value)
    if value is None or name not in DTYPES:
        raise UserError(f"model.{key} must be one of {', '.join(DTYPES)}, not {value!r}{nearest(name, DTYPES)}")
    return name


DTYPES = ["float32", "bfloat16", "float16"]
"""The types that a config may compute and store in."""

_MISMATCH = object()


def _converted(option: object, value: object) -> object:
    if option is typing.Any:
        return value
    if typing.get_origin(option) is tuple:
        args = typing.get_args(option)
        length = None if args[-1] is Ellipsis else len(args)
        several = (value,) * length if length and isinstance(value, int) else value
        fits = isinstance(several, tuple | list) and length in (None, len(several))
        fits = fits and all(isinstance(v, int) and not isinstance(v, bool) for v in several)
        return tuple(several) if fits else _MISMATCH
    if option is type(None):
        return value if value is None else _MISMATCH
    if option is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if option is not bool and isinstance(value, bool):
        return _MISMATCH
    return value if isinstance(value, option) else _MISMATCH


def describe(expected: object) -> str:
    """Returns a type as a message names it: `int`, `tuple[int, int]`, `float | None`."""
    return expected.__name__ if isinstance(expected, type) and not typing.get_args(expected) else str(expected)


VIT_SIZES = {
    "ti": {"width": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "s": {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "m": {"width": 512, "depth": 12, "heads": 8, "mlp_dim": 2048},
    "b": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "l": {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "h": {"width": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
    "g": {"width": 1408, "depth": 40, "heads": 16, "mlp_dim": 6144},
}
"""Dosovitskiy et al. 2021, table 1; Ti and S from Touvron et al. 2021; M and g from big_vision (Zhai et al. 2022)."""

HYBRIDS = {
    "r_ti16": {"stages": (), "patch_size": (8, 8), **VIT_SIZES["ti"]},
    "r26_s32": {"stages": (2, 2, 2, 2), **VIT_SIZES["s"]},
    "r50_b16": {"stages": (3, 4, 9), **VIT_SIZES["b"]},
    "r50_l32": {"stages": (3, 4, 6, 3), **VIT_SIZES["l"]},
}
"""Dosovitskiy et al. 2021 (R50+B/16), Steiner et al. 2022; R+Ti/16 bears its name though its patches are 32 pixels."""

MIXER_SIZES = {
    "s": {"width": 512, "depth": 8, "tokens_mlp_dim": 256, "channels_mlp_dim": 2048},
    "b": {"width": 768, "depth": 12, "tokens_mlp_dim": 384, "channels_mlp_dim": 3072},
    "l": {"width": 1024, "depth": 24, "tokens_mlp_dim": 512, "channels_mlp_dim": 4096},
}
"""Tolstikhin et al. 2021, table 1."""

CIFAR_SIZES = {
    "micro": {"width": 128, "depth": 4, "heads": 8, "mlp_dim": 256},
    "lite6": {"width": 256, "depth": 6, "heads": 4, "mlp_dim": 512},
    "lite7": {"width": 256, "depth": 7, "heads": 4, "mlp_dim": 512},
    "b": {"width": 384, "depth": 7, "heads": 12, "mlp_dim": 384},
}
"""Small models for 32-pixel images: micro is the tutorials' size, lite6 and lite7 ViT-Lite (Hassani et al. 2021)."""

for _size, _fields in VIT_SIZES.items():
    for _patch in (8, 14, 16, 32):
        register(f"vit_{_size}{_patch}", VisionTransformer, patch_size=(_patch, _patch), **_fields)
for _size, _fields in CIFAR_SIZES.items():
    register(f"vit_cifar_{_size}", VisionTransformer, patch_size=(4, 4), num_classes=10, **_fields)
for _size in ("ti", "s", "b"):
    _fields = {"patch_size": (16, 16), "gelu": "exact", **VIT_SIZES[_size]}
    register(f"deit_{_size}16", VisionTransformer, **_fields)
    register(f"deit_{_size}16_distilled", DistilledVisionTransformer, **_fields)
for _name, _fields in HYBRIDS.items():
    register(_name, HybridVisionTransformer, **_fields)
for _name in ("s32", "s16", "b32", "b16", "l16"):
    _patch = int(_name[1:])
    register(f"mixer_{_name}", Mixer, patch_size=(_patch, _patch), **MIXER_SIZES[_name[0]])

# Last, as `name_of` takes the first name that agrees, and these agree with everything.
register("vit", VisionTransformer)
register("vit_distilled", DistilledVisionTransformer)
register("hybrid", HybridVisionTransformer)
register("mixer", Mixer)
