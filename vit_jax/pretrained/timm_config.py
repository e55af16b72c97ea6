"""`config.json` beside timm's files, as timm writes it for the hub: an architecture, and arguments that make it."""

import json
import math
import re
from collections.abc import Mapping

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.weights import Weights

POOLS = {"token": "cls", "avg": "gap", "map": "map"}

TOLD_BY_ARCHITECTURE = (
    (r"quickgelu", None),
    (r"^beit", None),  # without relative positions and biases it has a ViT's names, but other defaults
    (r"_rpn_|_xp_|18x2|36x1|_pwee_|relpos|_gap_.*rope|_rope", None),
    (r"_clip_", {"norm_epsilon": 1e-5}),
    (r"giantopt_patch16_siglip", {"heads": 16, "gelu": "tanh"}),
    (r"patch32_siglip_256|so400m_patch16_siglip|large_patch16_siglip_512", {"gelu": "tanh"}),
)
"""What timm's definitions, by a pattern of the architecture's name, have beside what the arrays tell; None where the
model is computed otherwise than any here, although its arrays may have the same names.
"""


def told_by_architecture(config: Mapping[str, object]) -> dict[str, object]:
    """Returns the model's fields that only the architecture's name in `config.json` tells.

    Raises:
      UserError: a model of that name, or with such arguments, is computed otherwise than any here.
    """
    name, fields = str(config.get("architecture") or ""), {}
    for pattern, told in TOLD_BY_ARCHITECTURE:
        if re.search(pattern, name):
            if told is None:
                raise UserError(f"config.json: architecture {name!r} is computed otherwise than the models here")
            fields |= told
    for argument in ("norm_layer", "block_fn", "mlp_layer", "attn_layer"):
        if (config.get("model_args") or {}).get(argument):
            raise UserError(f"config.json: the argument {argument} of timm's model is not understood here")
    return fields


def pool_of(config: Mapping[str, object]) -> str | None:
    """Returns our name of the pooling that `config.json` states, or None.

    Raises:
      UserError: it is one that the models here have not.
    """
    stated = (config.get("model_args") or {}).get("global_pool") or config.get("global_pool")
    if stated in (None, "", "None"):
        return None
    if stated not in POOLS:
        raise UserError(f"config.json: global_pool {stated!r} is not known here, only {', '.join(POOLS)}")
    return POOLS[stated]


def gelu_of(arguments: Mapping[str, object], swiglu: bool) -> str:
    """Returns our name of the activation that timm's arguments ask for.

    Raises:
      UserError: it is none of GELU's two forms, nor SwiGLU's own.
    """
    stated = str(arguments.get("act_layer") or "gelu")
    if stated not in ("gelu", "gelu_tanh", *(["silu"] if swiglu else [])):
        raise UserError(f"act_layer {stated!r} is not supported")
    return "tanh" if stated == "gelu_tanh" else "exact"


@understood("config.json")
def stated_names(config: Mapping[str, object]) -> list[str] | None:
    """Returns the class names that `config.json` states, as a list or by their numbers."""
    names = config.get("label_names")
    if isinstance(names, Mapping):
        names = [names[str(i)] for i in range(len(names))]
    return None if names is None else [str(name) for name in names]


@understood("config.json")
def stated_size(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Returns the image size that `config.json` states."""
    size = (config.get("model_args") or {}).get("img_size")
    if size is None:
        size = list((config.get("pretrained_cfg") or {}).get("input_size") or [])[1:] or None
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int | float) else (int(size[0]), int(size[1]))


@understood("config.json")
def stated_preprocessing(config: Mapping[str, object], size: tuple[int, int]) -> Preprocessing:
    """Returns the evaluation preprocessing of `config.json`; what it does not say is timm's usual."""
    stated = config.get("pretrained_cfg") or {}
    share = float(stated.get("crop_pct") or 0.9)
    squash = stated.get("crop_mode") == "squash" or (share == 1.0 and size[0] != size[1])
    seen = Preprocessing(
        size=size,
        resize=None if squash else math.floor(min(size) / share),
        interpolation=str(stated.get("interpolation") or "bicubic"),
        mean=tuple(stated.get("mean") or IMAGENET_MEAN),
        std=tuple(stated.get("std") or IMAGENET_STD),
    )
    seen.transform()  # raises where it is not possible
    return seen


def hub_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm's `save_for_hf` writes it: an architecture, and arguments that make it this one."""
    module, size = weights.module, weights.image_size or weights.preprocessing.size
    distilled = isinstance(module, DistilledVisionTransformer)
    pools = {ours: theirs for theirs, ours in POOLS.items()}
    arguments = {
        "img_size": list(size),
        "patch_size": list(module.patch_size),
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": module.mlp_dim * (2 if module.mlp == "swiglu" else 1) / module.width,
        "qkv_bias": module.qkv_bias,
        "qk_norm": module.qk_norm,
        "init_values": module.layer_scale,
        "class_token": "cls" in module.class_token_names,
        "reg_tokens": module.registers,
        "no_embed_class": not distilled
        and (not module.class_token_names or (module.position == "learned" and not module.cls_position)),
        "pos_embed": "none" if module.position == "none" else "learn",
        "pre_norm": module.pre_norm,
        "global_pool": pools[module.pool],
        "fc_norm": module.pool_norm,
        "act_layer": "gelu_tanh" if module.gelu == "tanh" else "gelu",
    }
    architecture = "deit_base_distilled_patch16_224" if distilled else "vit_base_patch16_224"
    if module.mlp == "swiglu":
        # A class cannot be written to JSON, so the MLP has to be that of the architecture.
        architecture = "vit_giant_patch14_dinov2"
        del arguments["act_layer"]
    classifier = ["head", "head_dist"] if distilled else "head"
    return hub_document(weights, architecture, arguments, module.width, "patch_embed.proj", classifier)


def hub_document(
    weights: Weights,
    architecture: str,
    arguments: Mapping[str, object],
    features: int,
    first_conv: str,
    classifier: str | list[str],
) -> dict[str, object]:
    """Returns `config.json` of any of timm's models: what makes it, and how its images are prepared.

    Args:
      arguments: of the architecture's entry point, those that make it this model.
      features: channels that enter the classifier.
      first_conv, classifier: names of timm's layers.
    """
    size = weights.image_size or weights.preprocessing.size
    seen = weights.preprocessing.at_size(size)
    crop_pct = min(size) / seen.resize if seen.resize else 1.0
    if seen.resize and math.floor(min(size) / crop_pct) < seen.resize:
        crop_pct = math.nextafter(crop_pct, 0)  # timm rounds down, and so does float division
    config = {
        "architecture": architecture,
        "num_classes": weights.classes,
        "num_features": features,
        "global_pool": arguments.get("global_pool", "avg"),
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "num_classes": weights.classes,
            "input_size": [3, *size],
            "interpolation": seen.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": "center" if seen.resize else "squash",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "first_conv": first_conv,
            "classifier": classifier,
        },
    }
    if weights.class_names:
        config["label_names"] = list(weights.class_names)
    return json.loads(json.dumps(config))
