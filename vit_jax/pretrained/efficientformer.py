"""EfficientFormers in timm's layout."""

import math
import re
from collections.abc import Iterator

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.efficientformer import EfficientFormer
from vit_jax.models.stages import hidden_width
from vit_jax.pretrained import timm
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.layout import (
    Arrays,
    Document,
    Layout,
    agreed,
    batch_norm_entries,
    conv_entries,
    depths_of,
    ratio_of,
)
from vit_jax.pretrained.names import Entry, HeadByHead, Transposed, entry
from vit_jax.pretrained.timm import QKV, linear_entries, norm_entries
from vit_jax.pretrained.timm_config import hub_document, stated_names, stated_preprocessing, stated_size
from vit_jax.pretrained.weights import Weights

BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."
MLP = r"stages\.\d+\.blocks\.\d+\.mlp\.fc[12]\.weight$"
BIASES = r"stages\.(\d+)\.blocks\.(\d+)\.token_mixer\.attention_biases$"

HEADS, HEAD_DIM, VALUE_DIM = 8, 32, 128
"""Of the attention in all of timm's EfficientFormers."""

GRID = 7
"""Sides of the last map in all of timm's EfficientFormers, for images of up to 224 pixels."""


def place_of(module: EfficientFormer, stage: int, block: int) -> str:
    """Returns what timm's names of a block begin with; a part without parameters stands before the attention blocks."""
    after = attends(module, stage, block)
    return f"stages.{stage}.blocks.{block + after}"


def attends(module: EfficientFormer, stage: int, block: int) -> bool:
    """Returns whether a block has attention."""
    return stage == module.depth - 1 and block >= module.depths[stage] - module.attention_blocks


def entries_of(module: EfficientFormer) -> Iterator[Entry]:
    """Yields the entries of all but the heads."""
    for k in (0, 1):
        yield from conv_entries(f"stem.conv{k + 1}", f"stem/layer_{k}/conv")
        yield from batch_norm_entries(f"stem.norm{k + 1}", f"stem/layer_{k}/norm")
    for i, depth in enumerate(module.depths):
        if i:
            yield from conv_entries(f"stages.{i}.downsample.conv", f"encoder/stage_{i}/downsample/conv")
            yield from batch_norm_entries(f"stages.{i}.downsample.norm", f"encoder/stage_{i}/downsample/norm")
        for j in range(depth):
            yield from block_entries(place_of(module, i, j), f"encoder/stage_{i}/block_{j}", attends(module, i, j))
    yield from norm_entries("norm", "norm")


def block_entries(theirs: str, ours: str, attention: bool) -> Iterator[Entry]:
    """Yields the entries of one block."""
    for k in (0, 1):
        yield entry(f"{theirs}.ls{k + 1}.gamma", f"{ours}/layer_scale_{k}/gamma")
        yield from linear_entries(f"{theirs}.mlp.fc{k + 1}", f"{ours}/mlp/dense_{k}")
        if attention:
            yield from norm_entries(f"{theirs}.norm{k + 1}", f"{ours}/norm_{k}")
        else:
            yield from batch_norm_entries(f"{theirs}.mlp.norm{k + 1}", f"{ours}/mlp/norm_{k}")
    if attention:
        mixer = f"{theirs}.token_mixer"
        yield entry(f"{mixer}.qkv.weight", [f"{ours}/attention/{part}/kernel" for part in QKV], HeadByHead())
        yield entry(f"{mixer}.qkv.bias", [f"{ours}/attention/{part}/bias" for part in QKV], HeadByHead())
        yield from linear_entries(f"{mixer}.proj", f"{ours}/attention/out", in_axes=2)
        yield entry(f"{mixer}.attention_biases", f"{ours}/offset_bias/table", Transposed(in_axes=2))


def renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays with all kernels of MLPs as matrices; those of pooling blocks are convolutions by 1x1."""
    return {
        name: array[:, :, 0, 0] if array.ndim == 4 and array.shape[2:] == (1, 1) and re.match(MLP, name) else array
        for name, array in arrays.items()
    }


def written(module: EfficientFormer, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays as timm keeps them, with the index of each query's and key's offset, which it wants to find."""
    pooling = {
        f"{place_of(module, i, j)}.mlp.fc{k}.weight"
        for i, depth in enumerate(module.depths)
        for j in range(depth)
        for k in (1, 2)
        if not attends(module, i, j)
    }
    result = {name: array[:, :, None, None] if name in pooling else array for name, array in arrays.items()}
    y, x = np.mgrid[:GRID, :GRID].reshape(2, -1)
    offsets = np.abs(y[:, None] - y) * GRID + np.abs(x[:, None] - x)
    indices = [name.replace("attention_biases", "attention_bias_idxs") for name in arrays if re.match(BIASES, name)]
    return result | dict.fromkeys(indices, offsets)


def fields_of(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    arguments = dict(config.get("model_args") or {})
    agreed(config, global_pool=("avg",))
    agreed(arguments, global_pool=("avg",), act_layer=(None,), norm_layer=(None,), norm_layer_cl=(None,))
    depths = depths_of(arrays, BLOCK)
    biases = [name for name in arrays if re.match(BIASES, name)]
    if not biases:
        raise UserError("the file holds no attention biases; it is incomplete or of another architecture")
    heads = max(shape_of(arrays, biases[0], 2)[0], 1)
    mlps = [[name for name in arrays if re.match(rf"stages\.{i}\..*\.fc1\.weight$", name)] for i in range(len(depths))]
    hidden = [shape_of(arrays, names[0], 2) for names in mlps if names]
    mixer = biases[0].removesuffix("attention_biases")
    value_dim = shape_of(arrays, f"{mixer}proj.weight", 2)[1] // heads
    key_dim = (shape_of(arrays, f"{mixer}qkv.weight", 2)[0] // heads - value_dim) // 2
    return {
        "depths": depths,
        "widths": tuple(width for _, width in hidden),
        "attention_blocks": len(biases),
        "mlp_ratio": ratio_of([(w, h) for h, w in hidden], hidden_width, arguments.get("mlp_ratios")),
        "pool_size": int(arguments.get("pool_size", 3)),
        "layer_scale": float(arguments.get("layer_scale_init_value", 1e-5)),
        "heads": heads,
        "head_dim": key_dim,
        "value_dim": value_dim,
        "dist_classifier": "head_dist.bias" in arrays or "head.bias" not in arrays,
        "num_classes": outputs_of(arrays, "head.weight", "head.bias"),
    }


def told_size(arrays: Arrays) -> tuple[int, int] | None:
    """Returns the image size that the biases of the offsets tell, where they are those of a square grid."""
    offsets = next((array.shape[-1] for name, array in arrays.items() if re.match(BIASES, name) and array.ndim == 2), 0)
    side = math.isqrt(offsets)
    if not side or side * side != offsets:
        return None
    stride = 4 * 2 ** (len(depths_of(arrays, BLOCK)) - 1)
    return side * stride, side * stride


def table_of(module: EfficientFormer) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = list(entries_of(module))
    for head in ("head", *(["head_dist"] if module.dist_classifier else [])) if module.num_classes else ():
        table += linear_entries(head, head)
    return table


def preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns the evaluation preprocessing of timm's `config.json`; what it does not say is as published."""
    with understood("config.json"):
        stated = {"crop_pct": 0.95, **(config.get("pretrained_cfg") or {})}
    return stated_preprocessing({**config, "pretrained_cfg": stated}, size)


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub.

    Raises:
      UserError: timm has no such EfficientFormer.
    """
    module = weights.module
    size = weights.image_size or weights.preprocessing.size
    grid = tuple(-(-side // module.stride) for side in size)
    if not module.attention_blocks:
        raise UserError("the timm format has EfficientFormers with attention: attention_blocks above 0")
    if grid != (GRID, GRID):
        raise UserError(
            f"the timm format has EfficientFormers whose last map has {GRID}x{GRID} places, as of 224x224 images, not "
            f"{grid[0]}x{grid[1]} as of {size[0]}x{size[1]}"
        )
    arguments = {
        "depths": list(module.depths),
        "embed_dims": list(module.widths),
        "num_vit": module.attention_blocks,
        "mlp_ratios": module.mlp_ratio,
        "pool_size": module.pool_size,
        "layer_scale_init_value": module.layer_scale,
    }
    return hub_document(
        weights, "efficientformer_l1", arguments, module.widths[-1], "stem.conv1", ["head", "head_dist"]
    )


TIMM = Layout(
    kind=timm.KIND,
    model=EfficientFormer,
    recognises=lambda arrays: "stem.conv1.weight" in arrays and any(re.match(BIASES, name) for name in arrays),
    fields=fields_of,
    table=table_of,
    trunk=r"^(stem|stages|norm)",
    size=lambda module: (GRID * module.stride, GRID * module.stride),
    fixed_size=True,
    told_size=told_size,
    preprocessing=preprocessing,
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    renamed=renamed,
    written=written,
    allowed={
        "heads": (HEADS,),
        "head_dim": (HEAD_DIM,),
        "value_dim": (VALUE_DIM,),
        "norm_epsilon": (1e-5,),
        "dist_classifier": (True,),
    },
)
