"""Google's `.npz` files: google-research/vision_transformer, its hybrids and Mixers, AugReg and SAM.

Published files number the modules of a block as they were made before Linen; the library today writes Linen's own
numbers. Both are read, the published numbering is written.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import flax.linen as nn
import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.hybrid import HybridVisionTransformer
from vit_jax.models.mixer import Mixer
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.names import Entry, Stacked, entry, read, write
from vit_jax.pretrained.weights import POSITIONS as POSITION_EMBED
from vit_jax.pretrained.weights import (
    Weights,
    adapted,
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

KIND = "Google"


@dataclasses.dataclass(frozen=True)
class Numbering:
    """The names of a block's modules."""

    attention: str
    second_norm: str
    mlp: str


PUBLISHED = Numbering("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
LINEN = Numbering("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")

POSITIONS = "Transformer/posembed_input/pos_embedding"

TRUNK = "^(Transformer|embedding|conv_root|gn_root|block|stem|MixerBlock)"
"""Names that must all be known."""


def block_names(numbering: Numbering, bias: bool = True) -> Iterator[tuple[str, str]]:
    """Yields the names of one encoder block, theirs and ours."""
    yield from norm_names("LayerNorm_0", "norm_0")
    yield from attention_names(numbering.attention, "attention", bias)
    yield from norm_names(numbering.second_norm, "norm_1")
    yield from mlp_names(numbering.mlp, "mlp")


def norm_names(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Yields the names of a normalisation."""
    for leaf in ("scale", "bias"):
        yield f"{theirs}/{leaf}", f"{ours}/{leaf}"


def dense_names(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Yields the names of a dense layer or a convolution."""
    for leaf in ("kernel", "bias"):
        yield f"{theirs}/{leaf}", f"{ours}/{leaf}"


def attention_names(theirs: str, ours: str, bias: bool = True) -> Iterator[tuple[str, str]]:
    """Yields the names of an attention layer; without `bias` query, key and value have none."""
    for part in ("query", "key", "value", "out"):
        yield f"{theirs}/{part}/kernel", f"{ours}/{part}/kernel"
        if bias or part == "out":
            yield f"{theirs}/{part}/bias", f"{ours}/{part}/bias"


def mlp_names(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Yields the names of a perceptron's two layers."""
    for i in (0, 1):
        yield from dense_names(f"{theirs}/Dense_{i}", f"{ours}/dense_{i}")


def vit_table(
    module: VisionTransformer, numbering: Numbering, positions: str | None, scanned: bool = False
) -> list[Entry]:
    """Returns the table of a Vision Transformer, big_vision's included.

    Args:
      positions: the name of the position embedding, or None where the file has none.
      scanned: the layers lie in one array each, with a leading axis.
    """
    names = list(dense_names("embedding", "patch_embed"))
    if "cls" in module.class_token_names:
        names.append(("cls", "cls"))
    if positions:
        names.append((positions, POSITION_EMBED))
    names += norm_names("Transformer/encoder_norm", "norm")
    if module.hidden_width:
        names += dense_names("pre_logits", "pre_logits")
    if module.num_classes:
        names += dense_names("head", "head")
    table = [entry(theirs, ours) for theirs, ours in names]
    for theirs, ours in block_names(numbering, module.qkv_bias):
        blocks = [f"encoder/block_{i}/{ours}" for i in range(module.depth)]
        if scanned:
            table.append(entry(f"Transformer/encoderblock/{theirs}", blocks, Stacked()))
        else:
            table += [entry(f"Transformer/encoderblock_{i}/{theirs}", name) for i, name in enumerate(blocks)]
    return table


def backbone_table(module: HybridVisionTransformer) -> list[Entry]:
    """Returns the table of a hybrid's ResNet."""
    names = [("conv_root/kernel", "backbone/root/conv/kernel"), *norm_names("gn_root", "backbone/root/norm")]
    for stage, units in enumerate(module.stages):
        for unit in range(units):
            theirs, ours = f"block{stage + 1}/unit{unit + 1}", f"backbone/stage_{stage}/unit_{unit}"
            parts = [(str(i + 1), str(i)) for i in range(3)] + ([("_proj", "proj")] if unit == 0 else [])
            for their_part, our_part in parts:
                names.append((f"{theirs}/conv{their_part}/kernel", f"{ours}/conv_{our_part}/kernel"))
                names += norm_names(f"{theirs}/gn{their_part}", f"{ours}/norm_{our_part}")
    return [entry(theirs, ours) for theirs, ours in names]


def mixer_table(module: Mixer) -> list[Entry]:
    """Returns the table of a Mixer."""
    names = [*dense_names("stem", "patch_embed"), *norm_names("pre_head_layer_norm", "norm")]
    for i in range(module.depth):
        theirs, ours = f"MixerBlock_{i}", f"encoder/block_{i}"
        names += norm_names(f"{theirs}/LayerNorm_0", f"{ours}/norm_0")
        names += mlp_names(f"{theirs}/token_mixing", f"{ours}/token_mixing")
        names += norm_names(f"{theirs}/LayerNorm_1", f"{ours}/norm_1")
        names += mlp_names(f"{theirs}/channel_mixing", f"{ours}/channel_mixing")
    if module.num_classes:
        names += dense_names("head", "head")
    return [entry(theirs, ours) for theirs, ours in names]


def table_of(module: nn.Module, numbering: Numbering = PUBLISHED) -> list[Entry]:
    """Returns the table of a model of any kind that Google's files hold."""
    if isinstance(module, Mixer):
        return mixer_table(module)
    backbone = backbone_table(module) if isinstance(module, HybridVisionTransformer) else []
    return backbone + vit_table(module, numbering, POSITIONS)


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays of an `.npz` are named as Google's are."""
    return POSITIONS in arrays or "stem/kernel" in arrays


def read_weights(
    arrays: Mapping[str, np.ndarray], source: str, image_size: tuple[int, int] | None = None, **overrides
) -> Weights:
    """Returns the weights of a Google file.

    Args:
      image_size: that the positions were learned for, where the caller knows it.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: an array is missing or does not fit.
    """
    arrays, positioned = without_zero_rows(arrays, POSITIONS, int("cls" in arrays))
    numbering = LINEN if "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in arrays else PUBLISHED
    model, fields, tokens = (mixer_fields if "stem/kernel" in arrays else vit_fields)(arrays, numbering)
    if not positioned:
        fields["cls_position"], tokens = False, tokens + 1
    name, fields, module = adapted(model, fields, overrides)
    size = image_size or nominal_size(module, tokens)
    found, unused = read(table_of(module, numbering), arrays, parameter_shapes(module, size), source)
    image_size = size if image_size or square_grid(tokens) else None
    preprocessing = Preprocessing(image_size or (224, 224), antialias=False)
    unused = judged(unused, {}, TRUNK, source)
    return make_weights(name, fields, found, image_size, preprocessing, source, unused=unused)


def vit_fields(arrays: Mapping[str, np.ndarray], numbering: Numbering) -> tuple[type[nn.Module], dict, int]:
    """Returns the model class, its fields and its number of patches, told from names and shapes."""
    first = "Transformer/encoderblock_0"
    query, hidden = f"{first}/{numbering.attention}/query/kernel", f"{first}/{numbering.mlp}/Dense_0/kernel"
    fields = {
        **embedding_fields(arrays, "embedding/kernel"),
        "depth": depth_of(arrays, r"Transformer/encoderblock_(\d+)/"),
        "heads": shape_of(arrays, query, 3)[1],
        "mlp_dim": shape_of(arrays, hidden, 2)[1],
        "qkv_bias": query.replace("kernel", "bias") in arrays,
        "pool": "cls" if "cls" in arrays else "gap",
        "pre_logits": outputs_of(arrays, "pre_logits/kernel", "pre_logits/bias") or None,
        "num_classes": outputs_of(arrays, "head/kernel", "head/bias"),
    }
    tokens = shape_of(arrays, POSITIONS, 3)[1] - ("cls" in arrays)
    if "conv_root/kernel" not in arrays:
        return VisionTransformer, fields, tokens
    fields["stem_width"] = shape_of(arrays, "conv_root/kernel", 4)[3]
    # Stages and units are counted from 1; R+Ti/16 has none.
    stages = depth_of(arrays, r"block(\d+)/") if any(name.startswith("block") for name in arrays) else 1
    fields["stages"] = tuple(depth_of(arrays, rf"block{stage}/unit(\d+)/") - 1 for stage in range(1, stages))
    return HybridVisionTransformer, fields, tokens


def mixer_fields(arrays: Mapping[str, np.ndarray], numbering: Numbering) -> tuple[type[nn.Module], dict, int]:
    """Returns the model class, its fields and its number of patches, told from names and shapes."""
    tokens, tokens_mlp_dim = shape_of(arrays, "MixerBlock_0/token_mixing/Dense_0/kernel", 2)
    fields = {
        **embedding_fields(arrays, "stem/kernel"),
        "depth": depth_of(arrays, r"MixerBlock_(\d+)/"),
        "tokens_mlp_dim": tokens_mlp_dim,
        "channels_mlp_dim": shape_of(arrays, "MixerBlock_0/channel_mixing/Dense_0/kernel", 2)[1],
        "num_classes": outputs_of(arrays, "head/kernel", "head/bias"),
    }
    return Mixer, fields, tokens


def embedding_fields(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, object]:
    """Returns the patch size and the width, told from the patch embedding's kernel."""
    height, width, _, channels = shape_of(arrays, name, 4)
    return {"patch_size": (height, width), "width": channels}


def shape_of(arrays: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """Returns the shape of an array that must be there with that many axes.

    Raises:
      UserError: it is not.
    """
    if name not in arrays:
        raise missing(name)
    if arrays[name].ndim != axes:
        raise UserError(f"{name} has shape {arrays[name].shape}, not {axes} axes")
    return arrays[name].shape


def outputs_of(arrays: Mapping[str, np.ndarray], kernel: str, bias: str) -> int:
    """Returns the number of outputs of a dense layer, 0 where the file has no such layer.

    Raises:
      UserError: one half of the layer is missing.
    """
    if (kernel in arrays) != (bias in arrays):
        raise missing(bias if kernel in arrays else kernel)
    return arrays[bias].size if bias in arrays else 0


def missing(name: str) -> UserError:
    """Returns the error for an array that is not there."""
    return UserError(f"{name} is missing; the file is incomplete or of another architecture")


def write_weights(weights: Weights) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of a Google file, and what a person should know of them.

    Raises:
      UserError: the format cannot express the model.
    """
    expressible(
        weights.module,
        KIND,
        models=(VisionTransformer, HybridVisionTransformer, Mixer),
        patch_embed=("linear",),
        gelu=("tanh",),
        norm_epsilon=(1e-6,),
        mlp=("gelu",),
        pool=("cls", "gap"),
        position=("learned", "sincos2d"),
        pool_norm=(False,),
        pre_norm=(False,),
        cls_token=(False,),
        registers=(0,),
        qk_norm=(False,),
        layer_scale=(None,),
    )
    params, notes = with_positions(weights, KIND)
    return write(table_of(weights.module), params, KIND), notes


def without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays without the `opt/target/` or `params/` that some files put before every name."""
    for prefix in ("opt/target/", "params/"):
        if any(name.startswith(prefix) for name in arrays):
            return {re.sub(f"^{prefix}", "", name): array for name, array in arrays.items()}
    return dict(arrays)
