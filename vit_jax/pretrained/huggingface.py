"""Hugging Face folders and files: ViT, DeiT, DINOv2 with and without registers, in the names of `transformers`."""

import json
import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import (
    model_config,
    preprocessing_of,
    stated_classes,
    stated_fields,
    stated_scale,
    stated_size,
)
from vit_jax.pretrained.names import Convolution, Entry, Packed, entry, read, write
from vit_jax.pretrained.timm import QKV, Flat, Transposed, linear_entries, norm_entries
from vit_jax.pretrained.weights import (
    Weights,
    adapted,
    assumed,
    depth_of,
    expressible,
    judged,
    make_weights,
    nominal_size,
    parameter_shapes,
    square_grid,
    with_positions,
    without_zero_rows,
)

KIND = "Hugging Face"

PATCHES = "embeddings.patch_embeddings.projection"

TRUNK = r"^(\w+\.)?(embeddings|encoder|layernorm)\."
"""Names that must all be known."""

UNUSED = {
    r"embeddings\.mask_token$": "replaces masked patches in pre-training",
    r"pooler\.": "a pooler that the classifier does not use",
    r"^decoder\.": "the decoder of the pre-training",
}


def vit_block(theirs: str, ours: str, qkv_bias: bool) -> Iterator[Entry]:
    """Yields the entries of one block of ViT and DeiT."""
    yield from norm_entries(f"{theirs}.layernorm_before", f"{ours}/norm_0")
    yield from attention_entries(theirs, ours, qkv_bias)
    yield from norm_entries(f"{theirs}.layernorm_after", f"{ours}/norm_1")
    yield from linear_entries(f"{theirs}.intermediate.dense", f"{ours}/mlp/dense_0")
    yield from linear_entries(f"{theirs}.output.dense", f"{ours}/mlp/dense_1")


def dinov2_block(theirs: str, ours: str, qkv_bias: bool, swiglu: bool) -> Iterator[Entry]:
    """Yields the entries of one block of DINOv2."""
    for i in (0, 1):
        yield from norm_entries(f"{theirs}.norm{i + 1}", f"{ours}/norm_{i}")
        yield entry(f"{theirs}.layer_scale{i + 1}.lambda1", f"{ours}/layer_scale_{i}/gamma")
    yield from attention_entries(theirs, ours, qkv_bias)
    if swiglu:
        halves = [f"{ours}/mlp/gate", f"{ours}/mlp/dense_0"]
        yield entry(f"{theirs}.mlp.weights_in.weight", [f"{name}/kernel" for name in halves], Packed(Transposed()))
        yield entry(f"{theirs}.mlp.weights_in.bias", [f"{name}/bias" for name in halves], Packed(Flat()))
        yield from linear_entries(f"{theirs}.mlp.weights_out", f"{ours}/mlp/dense_1")
    else:
        yield from linear_entries(f"{theirs}.mlp.fc1", f"{ours}/mlp/dense_0")
        yield from linear_entries(f"{theirs}.mlp.fc2", f"{ours}/mlp/dense_1")


def attention_entries(theirs: str, ours: str, qkv_bias: bool) -> Iterator[Entry]:
    """Yields the entries of an attention layer."""
    for part in QKV:
        name = f"{theirs}.attention.attention.{part}"
        yield from linear_entries(name, f"{ours}/attention/{part}", bias=qkv_bias)
    yield from linear_entries(f"{theirs}.attention.output.dense", f"{ours}/attention/out", in_axes=2)


def table_of(module: VisionTransformer, prefix: str) -> list[Entry]:
    """Returns the table of a model.

    Args:
      prefix: what stands before the names of all but the heads: `vit.`, or nothing in a bare model.
    """
    distilled = isinstance(module, DistilledVisionTransformer)
    table = [
        entry(f"{prefix}{PATCHES}.weight", "patch_embed/kernel", Convolution()),
        entry(f"{prefix}{PATCHES}.bias", "patch_embed/bias"),
        entry(f"{prefix}embeddings.cls_token", "cls"),
        entry(f"{prefix}embeddings.position_embeddings", "position_embed/embedding"),
        *norm_entries(f"{prefix}layernorm", "norm"),
    ]
    if distilled:
        table.append(entry(f"{prefix}embeddings.distillation_token", "dist"))
    if module.registers:
        table.append(entry(f"{prefix}embeddings.register_tokens", "registers"))
    for i in range(module.depth):
        theirs, ours = f"{prefix}encoder.layer.{i}", f"encoder/block_{i}"
        if module.layer_scale is None:
            table += vit_block(theirs, ours, module.qkv_bias)
        else:
            table += dinov2_block(theirs, ours, module.qkv_bias, module.mlp == "swiglu")
    if module.hidden_width:
        table += linear_entries(f"{prefix}pooler.dense", "pre_logits")
    if module.num_classes:
        two = distilled and module.dist_classifier
        table += linear_entries("cls_classifier" if two else "classifier", "head")
        if two:
            table += linear_entries("distillation_classifier", "head_dist")
    return table


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays are named as those of the models here are."""
    return any(name.endswith(f"{PATCHES}.weight") for name in arrays) and any(
        "encoder.layer.0.attention.attention.query" in name for name in arrays
    )


def read_weights(
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, object],
    preprocessor: Mapping[str, object],
    source: str,
    image_size: tuple[int, int] | None = None,
    **overrides,
) -> Weights:
    """Returns the weights of a Hugging Face model.

    Args:
      config, preprocessor: `config.json` and `preprocessor_config.json` from beside the file, or empty.
      image_size: that the positions were learned for, where the caller knows it.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: an array is missing or does not fit, or nothing tells the number of heads.
    """
    prefix = next(name for name in arrays if name.endswith(f"{PATCHES}.weight")).removesuffix(f"{PATCHES}.weight")
    positions = f"{prefix}embeddings.position_embeddings"
    distilled = f"{prefix}embeddings.distillation_token" in arrays
    tokens = 1 + distilled
    arrays, positioned = without_zero_rows(arrays, positions, tokens)
    fields = told_by_names(arrays, prefix, config)
    fields |= stated_fields(config, overrides, fields["width"], dino=fields["layer_scale"] is not None)
    model = DistilledVisionTransformer if distilled else VisionTransformer
    fields["cls_position"] = positioned
    if distilled:
        fields["dist_classifier"] = "distillation_classifier.weight" in arrays
    name, fields, module = adapted(model, fields, overrides)
    patches = shape_of(arrays, positions, 3)[1] - (tokens if positioned else 0)
    image_size = image_size or stated_size(config)
    if image_size is None and square_grid(patches):
        image_size = nominal_size(module, patches)
    shapes = parameter_shapes(module, image_size or nominal_size(module, patches))
    found, unknown = read(table_of(module, prefix), arrays, shapes, source)
    unused = judged(unknown, UNUSED, TRUNK, source)
    preprocessing = preprocessing_of(preprocessor, image_size or (224, 224), dino=module.layer_scale is not None)
    return make_weights(
        name,
        fields,
        found,
        image_size,
        preprocessing,
        source,
        stated_classes(config, module.num_classes),
        position_resize="bicubic",
        unused=unused,
        notes=assumed(config, None if overrides.get("heads") else module.heads),
    )


def told_by_names(arrays: Mapping[str, np.ndarray], prefix: str, config: Mapping[str, object]) -> dict[str, object]:
    """Returns the model's fields that names and shapes tell."""
    width, _, height, breadth = shape_of(arrays, f"{prefix}{PATCHES}.weight", 4)
    first = f"{prefix}encoder.layer.0"
    dino = f"{first}.layer_scale1.lambda1" in arrays
    swiglu = f"{first}.mlp.weights_in.weight" in arrays
    hidden = (
        f"{first}.mlp.weights_out.weight"
        if swiglu
        else f"{first}.mlp.fc2.weight"
        if dino
        else f"{first}.output.dense.weight"
    )
    registers = f"{prefix}embeddings.register_tokens"
    head = next((name for name in ("classifier", "cls_classifier") if f"{name}.bias" in arrays), "classifier")
    classes = outputs_of(arrays, f"{head}.weight", f"{head}.bias")
    inputs = shape_of(arrays, f"{head}.weight", 2)[1] if classes else width
    pooler = outputs_of(arrays, f"{prefix}pooler.dense.weight", f"{prefix}pooler.dense.bias")
    return {
        "patch_size": (height, breadth),
        "width": width,
        "depth": depth_of(arrays, rf"{re.escape(prefix)}encoder\.layer\.(\d+)\."),
        "mlp": "swiglu" if swiglu else "gelu",
        "mlp_dim": shape_of(arrays, hidden, 2)[1],
        "pool": "cls_gap" if inputs == 2 * width else "cls",
        "pre_logits": pooler if pooler and not classes else None,
        "registers": shape_of(arrays, registers, 3)[1] if registers in arrays else 0,
        "qkv_bias": f"{first}.attention.attention.query.bias" in arrays,
        "layer_scale": stated_scale(config) if dino else None,
        "num_classes": classes,
    }


def write_weights(weights: Weights) -> tuple[dict[str, np.ndarray], dict, dict, list[str]]:
    """Returns the arrays, `config.json` and `preprocessor_config.json` of a Hugging Face folder, and what a person
    should know of them.

    Raises:
      UserError: the format cannot express the model.
    """
    module = weights.module
    dino = module.layer_scale is not None if hasattr(module, "layer_scale") else False
    distilled = isinstance(module, DistilledVisionTransformer)
    expressible(
        module,
        KIND,
        models=(VisionTransformer,) if dino else (VisionTransformer, DistilledVisionTransformer),
        patch_embed=("linear",),
        pool=("cls_gap",) if dino and module.num_classes else ("cls",),
        position=("learned", "sincos2d"),
        pool_norm=(False,),
        pre_norm=(False,),
        qk_norm=(False,),
        mlp=("gelu", "swiglu") if dino else ("gelu",),
        **({} if dino else {"registers": (0,)}),
        # A DeiT without heads ends in its cls token, ours in the mean of both unless it has the one classifier.
        **({} if module.num_classes else {"dist_classifier": (False,)}),
    )
    if module.hidden_width not in (None, module.width) or (module.hidden_width and module.num_classes):
        raise UserError(f"the {KIND} format has pre_logits (its pooler) as wide as the model and without a head only")
    prefix = "" if not module.num_classes else "deit." if distilled else "vit."
    config = model_config(weights)
    if dino and module.num_classes:
        prefix = f"{config['model_type']}."
    params, notes = with_positions(weights, KIND)
    arrays = write(table_of(module, prefix), params, KIND)
    if dino:
        arrays[f"{prefix}embeddings.mask_token"] = np.zeros((1, module.width), np.float32)
    return arrays, config, preprocessing_config(weights), notes


def preprocessing_config(weights: Weights) -> dict[str, object]:
    """Returns `preprocessor_config.json` for the image processor that does what our preprocessing does."""
    seen = weights.preprocessing
    resample = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[seen.interpolation]
    size = {"height": seen.size[0], "width": seen.size[1]}
    config = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(seen.mean),
        "image_std": list(seen.std),
        "resample": resample,
    }
    if seen.resize is None:
        config |= {"image_processor_type": "ViTImageProcessor", "size": size}
    else:
        config |= {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": seen.resize},
            "do_center_crop": True,
            "crop_size": size,
        }
    return json.loads(json.dumps(config))
