"""Names of architectures, and the models that they stand for."""

import dataclasses
import fnmatch
import types
import typing

import flax.linen as nn
import jax.numpy as jnp

from vit_jax.errors import UserError, nearest
from vit_jax.models.beit import Beit
from vit_jax.models.convnext import ConvNeXt
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.efficientformer import EfficientFormer
from vit_jax.models.hybrid import HybridVisionTransformer
from vit_jax.models.mixer import Mixer
from vit_jax.models.mobilevit import MobileViT
from vit_jax.models.resnet import RESNETS, ResNet
from vit_jax.models.swin import SwinTransformer
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

CCT_SIZES = {
    "2": {"width": 128, "depth": 2, "heads": 2, "mlp_dim": 128},
    "6": {"width": 256, "depth": 6, "heads": 4, "mlp_dim": 512},
    "7": {"width": 256, "depth": 7, "heads": 4, "mlp_dim": 512},
}
"""Hassani et al. 2021; `3x2` in a name is two convolutions by 3x3. The 3.17M parameters that they give for CCT-6/3x1
are without learned positions. Theirs normalise the residual stream between attention and MLP; these are pre-norm."""

CONVNEXT_SIZES = {
    "atto": {"depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)},
    "femto": {"depths": (2, 2, 6, 2), "widths": (48, 96, 192, 384)},
    "pico": {"depths": (2, 2, 6, 2), "widths": (64, 128, 256, 512)},
    "nano": {"depths": (2, 2, 8, 2), "widths": (80, 160, 320, 640)},
    "tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
    "large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
}
"""Liu et al. 2022, section 3; the four smallest from Woo et al. 2023 (V2), appendix."""

CONVNEXT_V2 = {"grn": True, "layer_scale": None}

SWIN_SIZES = {
    "tiny": {"depths": (2, 2, 6, 2), "widths": (96, 192, 384, 768), "heads": (3, 6, 12, 24)},
    "small": {"depths": (2, 2, 18, 2), "widths": (96, 192, 384, 768), "heads": (3, 6, 12, 24)},
    "base": {"depths": (2, 2, 18, 2), "widths": (128, 256, 512, 1024), "heads": (4, 8, 16, 32)},
    "large": {"depths": (2, 2, 18, 2), "widths": (192, 384, 768, 1536), "heads": (6, 12, 24, 48)},
}
"""Liu et al. 2021, section 3.4; with windows of 7 at 224 pixels, V2 (Liu et al. 2022, section 4.1) of 8 at 256."""

MOBILEVITS = {
    "xxs": {
        "widths": (16, 24, 48, 64, 80), "transformer_widths": (0, 0, 64, 80, 96), "last_width": 320,
        "expand_ratio": 2.0,
    },
    "xs": {
        "widths": (32, 48, 64, 80, 96), "transformer_widths": (0, 0, 96, 120, 144), "last_width": 384,
        "expand_ratio": 4.0,
    },
    "s": {
        "widths": (32, 64, 96, 128, 160), "transformer_widths": (0, 0, 144, 192, 240), "last_width": 640,
        "expand_ratio": 4.0,
    },
}  # fmt: skip
"""Mehta and Rastegari 2022, appendix A."""

EFFICIENTFORMERS = {
    "l1": {"depths": (3, 2, 6, 4), "widths": (48, 96, 224, 448), "attention_blocks": 1},
    "l3": {"depths": (4, 4, 12, 6), "widths": (64, 128, 320, 512), "attention_blocks": 4},
    "l7": {"depths": (6, 6, 18, 8), "widths": (96, 192, 384, 768), "attention_blocks": 8},
}
"""Li et al. 2022, appendix."""

for _size, _fields in VIT_SIZES.items():
    for _patch in (8, 14, 16, 32):
        register(f"vit_{_size}{_patch}", VisionTransformer, patch_size=(_patch, _patch), **_fields)
for _size, _fields in CIFAR_SIZES.items():
    register(f"vit_cifar_{_size}", VisionTransformer, patch_size=(4, 4), num_classes=10, **_fields)
for _name, _position in (("2_3x2", "learned"), ("6_3x1", "sincos2d"), ("7_3x1", "learned")):
    _fields = {"patch_size": (2 ** int(_name[-1]),) * 2, "patch_embed": "cct", "pool": "sequence", "qkv_bias": False}
    _fields |= {"gelu": "exact", "norm_epsilon": 1e-5, "position": _position, "num_classes": 10}
    register(f"cct_cifar_{_name}", VisionTransformer, **_fields, **CCT_SIZES[_name[0]])
for _size in ("ti", "s", "b"):
    _fields = {"patch_size": (16, 16), "gelu": "exact", **VIT_SIZES[_size]}
    register(f"deit_{_size}16", VisionTransformer, **_fields)
    register(f"deit_{_size}16_distilled", DistilledVisionTransformer, **_fields)
for _size in ("s", "b", "l"):
    _fields = {"patch_size": (16, 16), "gelu": "exact", "layer_scale": 1e-6, "cls_position": False, **VIT_SIZES[_size]}
    register(f"deit3_{_size}16", VisionTransformer, **_fields)
for _name, _fields in HYBRIDS.items():
    register(_name, HybridVisionTransformer, **_fields)
for _name in ("s32", "s16", "b32", "b16", "l16"):
    _patch = int(_name[1:])
    register(f"mixer_{_name}", Mixer, patch_size=(_patch, _patch), **MIXER_SIZES[_name[0]])

for _depth, _fields in RESNETS.items():
    register(f"resnet{_depth}", ResNet, **_fields, widths=(64, 128, 256, 512), small_stem=False)
register("resnet18_cifar", ResNet, **RESNETS["18"], widths=(64, 128, 256, 512), small_stem=True, num_classes=10)
for _size, _fields in CONVNEXT_SIZES.items():
    register(f"convnextv2_{_size}", ConvNeXt, **_fields, **CONVNEXT_V2)
    if _size in ("tiny", "small", "base", "large"):
        register(f"convnext_{_size}", ConvNeXt, **_fields, grn=False)
# 2.7M parameters: patches of 2 pixels leave a 16x16 map, which three stages bring down to 4x4.
_fields = {"depths": (2, 2, 4), "widths": (64, 128, 256), "patch_size": 2}
register("convnext_cifar", ConvNeXt, **_fields, **CONVNEXT_V2, num_classes=10)

for _size, _fields in SWIN_SIZES.items():
    register(f"swin_{_size}", SwinTransformer, **_fields, version=1)
    if _size != "large":
        register(f"swinv2_{_size}", SwinTransformer, **_fields, version=2, window_size=8)
# 2.9M parameters: patches of 2 pixels leave a 16x16 map, which three stages bring down to 4x4, one window.
_fields = {"depths": (2, 4, 2), "widths": (64, 128, 256), "heads": (2, 4, 8), "patch_size": (2, 2), "window_size": 4}
register("swin_cifar", SwinTransformer, **_fields, version=1, num_classes=10)
register("beit_b16", Beit, patch_size=(16, 16), **VIT_SIZES["b"])
register("beit_l16", Beit, patch_size=(16, 16), **VIT_SIZES["l"], layer_scale=1e-5)

for _size, _fields in MOBILEVITS.items():
    register(f"mobilevit_{_size}", MobileViT, **_fields)
for _size, _fields in EFFICIENTFORMERS.items():
    register(f"efficientformer_{_size}", EfficientFormer, **_fields)

# Last, as `name_of` takes the first name that agrees, and these agree with everything.
register("vit", VisionTransformer)
register("vit_distilled", DistilledVisionTransformer)
register("hybrid", HybridVisionTransformer)
register("mixer", Mixer)
register("resnet", ResNet)
register("convnext", ConvNeXt)
register("swinv2", SwinTransformer, version=2, window_size=8)
register("swin", SwinTransformer)
register("beit", Beit)
register("mobilevit", MobileViT)
register("efficientformer", EfficientFormer)
