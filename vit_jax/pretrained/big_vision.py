"""big_vision's `.npz` files: cls, mean or attention pooling, sincos2d, scanned layers, a tower of a two-tower model.

Positions stand at the top (`pos_embedding`) and are added before the cls token, which has none of its own.
"""

import re
from collections.abc import Mapping

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.google import (
    LINEN,
    attention_names,
    embedding_fields,
    mlp_names,
    norm_names,
    outputs_of,
    shape_of,
    vit_table,
)
from vit_jax.pretrained.google import TRUNK as GOOGLE_TRUNK
from vit_jax.pretrained.names import Entry, entry, read
from vit_jax.pretrained.weights import (
    Weights,
    adapted,
    depth_of,
    judged,
    make_weights,
    nominal_size,
    parameter_shapes,
    square_grid,
)

POSITIONS = "pos_embedding"
MAP_HEAD = "MAPHead_0"

TRUNK = f"{GOOGLE_TRUNK}|^MAPHead_"
"""Names that must all be known."""

UNUSED = {r"^txt/": "the text tower", r"^(t|b|bias|temperature)$": "of the loss between image and text"}


def table_of(module: VisionTransformer, scanned: bool = False) -> list[Entry]:
    """Returns the table of a Vision Transformer."""
    names = []
    if module.pool == "map":
        names.append((f"{MAP_HEAD}/probe", "map_pool/probe"))
        names += attention_names(f"{MAP_HEAD}/{LINEN.attention}", "map_pool/attention")
        names += norm_names(f"{MAP_HEAD}/LayerNorm_0", "map_pool/norm")
        names += mlp_names(f"{MAP_HEAD}/{LINEN.mlp}", "map_pool/mlp")
    positions = POSITIONS if module.position == "learned" else None
    return vit_table(module, LINEN, positions, scanned) + [entry(theirs, ours) for theirs, ours in names]


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays of an `.npz` are named as big_vision's are."""
    return any(re.match(r"(img/)?Transformer/encoderblock", name) for name in arrays)


def read_weights(
    arrays: Mapping[str, np.ndarray], source: str, image_size: tuple[int, int] | None = None, **overrides
) -> Weights:
    """Returns the weights of a big_vision file.

    Args:
      image_size: that the model was trained at, where the caller knows it.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: an array is missing or does not fit.
    """
    arrays, others = image_tower(arrays)
    arrays = renamed(arrays)
    scanned = "Transformer/encoderblock/LayerNorm_0/scale" in arrays
    fields, tokens = model_fields(arrays, scanned)
    name, fields, module = adapted(VisionTransformer, fields, overrides)
    size = image_size or nominal_size(module, tokens or 1)
    found, unknown = read(table_of(module, scanned), arrays, parameter_shapes(module, size), source)
    image_size = size if image_size or (tokens and square_grid(tokens)) else None
    unused = judged([*unknown, *others], UNUSED, TRUNK, source)
    preprocessing = Preprocessing(image_size or (224, 224), antialias=False)
    return make_weights(name, fields, found, image_size, preprocessing, source, unused=unused)


def image_tower(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of a two-tower file's image tower, and the names of the others, the text tower's as one."""
    if not any(name.startswith("img/") for name in arrays):
        return dict(arrays), []
    tower = {name.removeprefix("img/"): array for name, array in arrays.items() if name.startswith("img/")}
    others = [re.sub("^txt/.*", "txt/…", name) for name in arrays if not name.startswith("img/")]
    return tower, list(dict.fromkeys(others))


def renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays under today's names: early files have the positions in `Transformer`, the MAP head at the root."""
    arrays = dict(arrays)
    if "Transformer/pos_embedding" in arrays:
        arrays[POSITIONS] = arrays.pop("Transformer/pos_embedding")
    if "probe" in arrays:
        for name in [n for n in arrays if re.match(r"probe$|MultiHeadDot|LayerNorm_0/|MlpBlock_0/", n)]:
            arrays[f"{MAP_HEAD}/{name}"] = arrays.pop(name)
    return arrays


def model_fields(arrays: Mapping[str, np.ndarray], scanned: bool) -> tuple[dict[str, object], int | None]:
    """Returns the model's fields and its number of patches (None where positions are not stored)."""
    first = "Transformer/encoderblock" if scanned else "Transformer/encoderblock_0"
    layers = int(scanned)
    query = f"{first}/{LINEN.attention}/query/kernel"
    fields = {
        **embedding_fields(arrays, "embedding/kernel"),
        "depth": shape_of(arrays, f"{first}/LayerNorm_0/scale", 2)[0]
        if scanned
        else depth_of(arrays, r"Transformer/encoderblock_(\d+)/"),
        "heads": shape_of(arrays, query, 3 + layers)[1 + layers],
        "mlp_dim": shape_of(arrays, f"{first}/{LINEN.mlp}/Dense_0/kernel", 2 + layers)[1 + layers],
        "qkv_bias": query.replace("kernel", "bias") in arrays,
        "pool": "map" if f"{MAP_HEAD}/probe" in arrays else "cls" if "cls" in arrays else "gap",
        "cls_position": False,
        "position": "learned" if POSITIONS in arrays else "sincos2d",
        "pre_logits": outputs_of(arrays, "pre_logits/kernel", "pre_logits/bias") or None,
        "num_classes": outputs_of(arrays, "head/kernel", "head/bias"),
    }
    if fields["pool"] != "cls":
        del fields["cls_position"]
        if "cls" in arrays:
            raise UserError("a cls token beside attention pooling is no model of big_vision's")
    return fields, shape_of(arrays, POSITIONS, 3)[1] if POSITIONS in arrays else None
