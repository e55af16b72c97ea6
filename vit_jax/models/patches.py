"""How a Vision Transformer makes tokens of an image, by its field `patch_embed`."""

import typing

import flax.linen as nn

from vit_jax.layers.adaptive import AdaptiveEmbed
from vit_jax.layers.conv_stem import ConvStem
from vit_jax.layers.conv_tokenizer import ConvTokenizer
from vit_jax.layers.flexible import FlexibleEmbed
from vit_jax.layers.overlapping import OverlappingEmbed
from vit_jax.layers.patch_embed import PatchEmbed
from vit_jax.models.hybrid_embed import HybridEmbed, make_backbone, map_stride

if typing.TYPE_CHECKING:
    from vit_jax.models.vit import VisionTransformer

EMBEDDINGS = {
    "linear": PatchEmbed,
    "overlapping": OverlappingEmbed,
    "conv_stem": ConvStem,
    "cct": ConvTokenizer,
    "hybrid": HybridEmbed,
    "positional": PatchEmbed,
    "adaptive": AdaptiveEmbed,
    "flexible": FlexibleEmbed,
}
"""The modules by the value of `patch_embed`: called with images and whether they train, but for `PlacedEmbed`s."""

OPTIONS = {
    "overlapping": ("patch_stride",),
    "hybrid": ("resnet", "resnet_stage"),
    "adaptive": ("patch_scales", "patch_tokens"),
    "flexible": ("patch_sizes", "patch_base"),
}
"""The fields that belong to one value of `patch_embed`; with any other they are None."""

RESNET, STAGE = "bit50", 3
"""The ResNet and the stage whose map is cut into patches, where nothing says which."""


def check_patches(model: "VisionTransformer") -> None:
    """Raises a `ValueError` for fields that do not go with the model's `patch_embed`."""
    kind = model.patch_embed
    for other, fields in OPTIONS.items():
        strays = [field for field in fields if getattr(model, field) is not None and other != kind]
        if strays:
            raise ValueError(f"{strays[0]} belongs to patch_embed {other!r}, not {kind!r}")
    if kind == "flexible" and (not model.patch_sizes or min(model.patch_sizes) < 1):
        raise ValueError(f"patch_embed 'flexible' draws from patch_sizes, such as (2, 4, 8), not {model.patch_sizes}")
    if kind == "hybrid":
        map_stride(*chosen_resnet(model))
    if model.class_tokens < 1 or (model.class_tokens > 1 and model.pool != "multi_cls"):
        raise ValueError(
            f"class_tokens={model.class_tokens}: several class tokens need pool='multi_cls', others have 1"
        )
    if model.multi_cls != "concat" and model.pool != "multi_cls":
        raise ValueError(f"multi_cls={model.multi_cls!r} belongs to pool 'multi_cls', not {model.pool!r}")
    whole = f"attention {model.attention!r} goes by the whole grid"
    if model.attention_kind.needs_grid and (kind == "adaptive" or model.patch_dropout):
        raise ValueError(
            f"{whole}, which patch_embed 'adaptive' does not make"
            if kind == "adaptive"
            else f"{whole}: patch_dropout must be 0"
        )
    if model.attention_kind.relative and kind == "flexible":
        raise ValueError("a table of relative positions is for one grid, which patch_embed 'flexible' changes")
    if model.patch_dropout and kind == "positional":
        raise ValueError("patch_embed 'positional' convolves the whole grid: patch_dropout must be 0")
    if kind == "positional" and model.merge_tokens:
        raise ValueError("patch_embed 'positional' needs the whole grid after the first block: merge_tokens must be 0")


def patch_embedding(model: "VisionTransformer", backbone: nn.Module | None = None, **named) -> nn.Module:
    """Returns the module that makes tokens of images.

    Args:
      backbone: that of a hybrid, where images are to be embedded.
      named: `name` or `parent` of the module.
    """
    kind, patch_size = model.patch_embed, model.patch_size
    options = {"use_bias": kind != "cct" and not model.pre_norm, "dtype": model.dtype, "param_dtype": model.param_dtype}
    if kind == "overlapping":
        options["patch_stride"] = model.patch_stride or tuple(max(side // 2, 1) for side in patch_size)
    elif kind == "hybrid":
        pixels = map_stride(*chosen_resnet(model))
        if any(side % pixels for side in patch_size):
            raise ValueError(f"patch_size {patch_size} must be a multiple of the ResNet's stride of {pixels} pixels")
        patch_size = (patch_size[0] // pixels, patch_size[1] // pixels)
        options |= {"backbone": backbone, "pixels": pixels}
    elif kind == "adaptive":
        given = {field: getattr(model, field) for field in OPTIONS[kind]}
        options |= {field: value for field, value in given.items() if value is not None}
    elif kind == "flexible":
        options["patch_base"] = model.patch_base or (max(model.patch_sizes or (0,)),) * 2
    return EMBEDDINGS[kind](patch_size, model.width, **options, **named)


def patch_backbone(model: "VisionTransformer") -> nn.Module | None:
    """Returns the ResNet of a hybrid, or None."""
    if model.patch_embed != "hybrid":
        return None
    types = {"dtype": model.dtype, "param_dtype": model.param_dtype}
    return make_backbone(*chosen_resnet(model), model.remat, **types)


def chosen_resnet(model: "VisionTransformer") -> tuple[str, int]:
    """Returns the name and the stage of a hybrid's ResNet."""
    return model.resnet or RESNET, STAGE if model.resnet_stage is None else model.resnet_stage
