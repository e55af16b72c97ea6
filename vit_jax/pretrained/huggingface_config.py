"""`config.json` and `preprocessor_config.json` of Hugging Face models, both ways."""

import re
from collections.abc import Mapping

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.timm import HEADS
from vit_jax.pretrained.weights import Weights

GELU = {"gelu": "exact", "gelu_python": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_mae")
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic")
"""Interpolations by PIL's numbers."""


@understood("config.json")
def stated_fields(
    config: Mapping[str, object], overrides: Mapping[str, object], width: int, dino: bool
) -> dict[str, object]:
    """Returns the model's fields that only `config.json` tells, or else what the published models have.

    Args:
      dino: the arrays are a DINOv2's.

    Raises:
      UserError: the model is of a type, or has an activation, that is not known here; or nothing tells the heads.
    """
    kind = config.get("model_type")
    if kind is not None and kind not in MODEL_TYPES:
        raise UserError(f"config.json: model_type {kind!r} is not known here, only {', '.join(MODEL_TYPES)}")
    activation = str(config.get("hidden_act", "gelu"))
    if activation not in GELU:
        raise UserError(f"config.json: hidden_act {activation!r} is not known here, only {', '.join(GELU)}")
    heads = overrides.get("heads") or config.get("num_attention_heads") or HEADS.get(width)
    if heads is None:
        raise UserError(f"no config.json beside the file tells the number of heads of its {width} channels: heads=N")
    epsilon = float(config.get("layer_norm_eps", 1e-6 if dino else 1e-12))
    if not 0 <= epsilon < 1:
        raise UserError(f"config.json: layer_norm_eps must be a small number from 0 up, not {epsilon}")
    return {"heads": int(heads), "gelu": GELU[activation], "norm_epsilon": epsilon}


@understood("config.json")
def stated_scale(config: Mapping[str, object]) -> float:
    """Returns what the LayerScale of a DINOv2 starts at."""
    return float(config.get("layerscale_value", 1.0))


@understood("config.json")
def stated_size(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Returns the image size that `config.json` states."""
    size = config.get("image_size")
    if size is None:
        return None
    return (int(size), int(size)) if isinstance(size, int | float) else (int(size[0]), int(size[1]))


@understood("config.json")
def stated_classes(config: Mapping[str, object], classes: int) -> list[str] | None:
    """Returns the class names of `config.json`, or None where it has none but the placeholders `LABEL_0`, …"""
    labels = config.get("id2label") or {}
    names = [labels.get(str(i)) for i in range(classes)]
    known = names and all(isinstance(name, str) for name in names)
    return names if known and not all(re.fullmatch(r"LABEL_\d+", name) for name in names) else None


@understood("preprocessor_config.json")
def preprocessing_of(config: Mapping[str, object], image_size: tuple[int, int], dino: bool = False) -> Preprocessing:
    """Returns what `preprocessor_config.json` says; of an empty one, what the published models have.

    A squash to a size before the centre crop, as of DeiT's processor, is taken as its short side: DeiT's own recipe.

    Args:
      dino: DINOv2's defaults, not ViT's.
    """
    if not config:
        if not dino:
            return Preprocessing(image_size)
        seen = Preprocessing((224, 224), 256, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return seen.at_size(image_size) if image_size != (224, 224) else seen
    stated = config.get("size", 224)
    if config.get("do_center_crop") and "crop_size" in config:
        size, resize = _sides(config["crop_size"]), min(_sides(stated))
    else:
        size = _sides(stated)
        resize = min(size) if isinstance(stated, Mapping) and "shortest_edge" in stated else None
    normalised = config.get("do_normalize", True)
    seen = Preprocessing(
        size,
        resize,
        RESAMPLING[int(config.get("resample", 2))],
        mean=tuple(config.get("image_mean") or (0.5, 0.5, 0.5)) if normalised else (0.0, 0.0, 0.0),
        std=tuple(config.get("image_std") or (0.5, 0.5, 0.5)) if normalised else (1.0, 1.0, 1.0),
    )
    seen.transform()  # raises where it is not possible
    return seen


def _sides(stated: object) -> tuple[int, int]:
    if isinstance(stated, Mapping):
        edge = stated.get("shortest_edge")
        return int(stated.get("height", edge)), int(stated.get("width", edge))
    return int(stated), int(stated)


def model_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a ViT, DeiT or DINOv2.

    Raises:
      UserError: DINOv2's config has no form for the MLP's width.
    """
    module = weights.module
    dino, distilled = module.layer_scale is not None, isinstance(module, DistilledVisionTransformer)
    size = list(weights.image_size or weights.preprocessing.size)
    names = weights.class_names or [f"LABEL_{i}" for i in range(module.num_classes)]
    height, width = module.patch_size
    config = {
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "hidden_act": "gelu" if module.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": module.norm_epsilon,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": height if height == width else [height, width],
        "num_channels": 3,
        "qkv_bias": module.qkv_bias,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "torch_dtype": "float32",
    }
    if not dino:
        kind = "DeiT" if distilled else "ViT"
        suffix = "ForImageClassification" + ("WithTeacher" if distilled and module.dist_classifier else "")
        config |= {"model_type": kind.lower(), "intermediate_size": module.mlp_dim, "encoder_stride": height}
        return {"architectures": [kind + (suffix if module.num_classes else "Model")], **config}
    kind = ("Dinov2WithRegisters", "dinov2_with_registers") if module.registers else ("Dinov2", "dinov2")
    config |= {
        "model_type": kind[1],
        "mlp_ratio": _mlp_ratio(module),
        "use_swiglu_ffn": module.mlp == "swiglu",
        "layerscale_value": module.layer_scale,
    }
    if module.registers:
        config["num_register_tokens"] = module.registers
    return {"architectures": [kind[0] + ("ForImageClassification" if module.num_classes else "Model")], **config}


def _mlp_ratio(module) -> int:
    """Returns the whole number from which DINOv2 makes the MLP's width: times the width, and for SwiGLU two thirds of
    that, rounded up to a multiple of 8.
    """
    for ratio in range(1, 33):
        hidden = module.width * ratio
        if module.mlp == "swiglu":
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == module.mlp_dim:
            return ratio
    raise UserError(f"the Hugging Face format has no form for an MLP of {module.mlp_dim} in {module.width} channels")
