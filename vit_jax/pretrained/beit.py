"""BEiT and BEiT v2 in timm's layout and in Hugging Face's."""

import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.beit import Beit
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import GELU, preprocessing_of, stated_classes
from vit_jax.pretrained.huggingface_config import stated_size as huggingface_size
from vit_jax.pretrained.layout import Arrays, Document, Layout, agreed, huggingface_document
from vit_jax.pretrained.names import Convolution, Entry, Flat, Packed, Rows, Transposed, entry
from vit_jax.pretrained.timm import HEADS, QKV, linear_entries, norm_entries
from vit_jax.pretrained.timm_config import hub_document, pool_of, stated_names, stated_preprocessing, stated_size
from vit_jax.pretrained.weights import Weights, depth_of

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""What images are normalised by where nothing tells it; those of version 2 by ImageNet's mean and deviation."""

ALLOWED = {
    "patch_embed": ("linear",),
    "pool": ("gap", "cls"),
    "position": ("none", "learned"),
    "mlp": ("gelu",),
    "head": ("linear",),
    "pre_logits": (None,),
    "qk_norm": (False,),
    "registers": (0,),
    "pre_norm": (False,),
    "cls_position": (True,),
}
"""Values of fields that both libraries can express."""


def entries_of(module: Beit, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of a whole model.

    Args:
      names: of a library, of the embeddings, the blocks and their parts, norm and head.
    """
    yield entry(f"{names['patches']}.weight", "patch_embed/kernel", Convolution())
    yield entry(f"{names['patches']}.bias", "patch_embed/bias")
    yield entry(names["cls"], "cls")
    if module.position == "learned":
        yield entry(names["positions"], "position_embed/embedding")
    if module.relative_bias == "shared":
        yield relative_entry(names["shared"], "relative_bias")
    for i in range(module.depth):
        yield from block_entries(module, names["block"].format(i), f"encoder/block_{i}", names)
    yield from norm_entries(names["pool_norm"] if module.pool_norm else names["norm"], "norm")
    if module.num_classes:
        yield from linear_entries(names["head"], "head")


def relative_entry(theirs: str, ours: str) -> Entry:
    """Returns the entry of one table: the grid's relative positions, then three of the cls token."""
    return entry(f"{theirs}.relative_position_bias_table", [f"{ours}/table", f"{ours}/cls"], Rows())


def block_entries(module: Beit, theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of one block."""
    attention, biased = f"{theirs}.{names['attention']}", [p for p in QKV if module.qkv_bias and p != "key"]
    if "query" in names:
        for part in QKV:
            yield from linear_entries(f"{attention}.{part}", f"{ours}/attention/{part}", bias=part in biased)
    else:
        yield entry(f"{attention}.qkv.weight", [f"{ours}/attention/{p}/kernel" for p in QKV], Packed(Transposed()))
        for part in biased:
            yield entry(f"{attention}.{part[0]}_bias", f"{ours}/attention/{part}/bias", Flat())
    yield from linear_entries(f"{theirs}.{names['out']}", f"{ours}/attention/out", in_axes=2)
    if module.relative_bias == "blocks":
        yield relative_entry(f"{theirs}.{names['relative']}", f"{ours}/relative_bias")
    for k in (0, 1):
        yield from norm_entries(f"{theirs}.{names[f'norm_{k}']}", f"{ours}/norm_{k}")
        yield from linear_entries(f"{theirs}.{names[f'dense_{k}']}", f"{ours}/mlp/dense_{k}")
        if module.layer_scale is not None:
            yield entry(f"{theirs}.{names['scale']}_{k + 1}", f"{ours}/layer_scale_{k}/gamma")


def table_names(names: Mapping[str, str]) -> tuple[str, str]:
    """Returns what the table of the first block is called, and that of all blocks together."""
    first = f"{names['block'].format(0)}.{names['relative']}"
    return tuple(f"{name}.relative_position_bias_table" for name in (first, names["shared"]))


def shapes_of(arrays: Arrays, names: Mapping[str, str], heads: object) -> dict[str, object]:
    """Returns the model's fields that names and shapes tell.

    Args:
      heads: their number as `config.json` states it, or None.

    Raises:
      UserError: an array is missing, or nothing tells the heads.
    """
    width, _, height, breadth = shape_of(arrays, f"{names['patches']}.weight", 4)
    own, shared = table_names(names)
    kind = "blocks" if own in arrays else "shared" if shared in arrays else "none"
    if kind != "none":
        heads = shape_of(arrays, own if kind == "blocks" else shared, 2)[1]
    heads = int(heads or HEADS.get(width, 0))
    if not heads:
        raise UserError(
            f"the file does not tell the number of heads of its {width} channels; config.json beside it does"
        )
    first, block = names["block"].format(0), re.escape(names["block"]).replace(r"\{\}", r"(\d+)")
    query = f"{first}.{names['attention']}.{'query.bias' if 'query' in names else 'q_bias'}"
    pooled = f"{names['pool_norm']}.weight" in arrays
    return {
        "patch_size": (height, breadth),
        "width": width,
        "depth": depth_of(arrays, rf"{block}\."),
        "heads": heads,
        "mlp_dim": shape_of(arrays, f"{first}.{names['dense_0']}.weight", 2)[0],
        "qkv_bias": query in arrays,
        "pool": "gap" if pooled else "cls",
        "pool_norm": pooled,
        "position": "learned" if names["positions"] in arrays else "none",
        "relative_bias": kind,
        "num_classes": outputs_of(arrays, f"{names['head']}.weight", f"{names['head']}.bias"),
    }


def told_size(arrays: Arrays, names: Mapping[str, str]) -> tuple[int, int] | None:
    """Returns the image size of the square grid that the relative or the absolute positions were learned for.

    Raises:
      UserError: they are those of no square grid.
    """
    _, _, height, breadth = shape_of(arrays, f"{names['patches']}.weight", 4)
    table = next((name for name in table_names(names) if name in arrays), None)
    if table is None and names["positions"] not in arrays:
        return None
    if table is not None:
        count = shape_of(arrays, table, 2)[0] - 3
        side = (math.isqrt(max(count, 0)) + 1) // 2
        square = count == (2 * side - 1) ** 2
    else:
        count = shape_of(arrays, names["positions"], 3)[1] - 1
        side = math.isqrt(max(count, 0))
        square = count == side**2
    if not square or not side:
        raise UserError(f"its {count} positions are those of no square image; give image_size=(height, width)")
    return side * height, side * breadth


def mlp_ratio(module: Beit) -> float:
    """Returns the hidden width of the MLP in terms of the model's width."""
    return module.mlp_dim / module.width


# timm.

TIMM_NAMES = {
    "patches": "patch_embed.proj",
    "cls": "cls_token",
    "positions": "pos_embed",
    "shared": "rel_pos_bias",
    "block": "blocks.{}",
    "attention": "attn",
    "relative": "attn",
    "out": "attn.proj",
    "norm_0": "norm1",
    "norm_1": "norm2",
    "dense_0": "mlp.fc1",
    "dense_1": "mlp.fc2",
    "scale": "gamma",
    "pool_norm": "fc_norm",
    "norm": "norm",
    "head": "head",
}


def timm_recognises(arrays: Arrays) -> bool:
    """Returns whether arrays are named as timm's BEiTs: packed kernels without packed biases, or relative positions."""
    beits = {"blocks.0.attn.q_bias", *table_names(TIMM_NAMES)}
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= arrays.keys() and bool(beits & arrays.keys())


def timm_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    name, arguments = str(config.get("architecture") or "beit"), dict(config.get("model_args") or {})
    if not name.startswith("beit"):
        raise UserError(f"config.json: architecture {name!r} is computed otherwise than the BEiTs here")
    agreed(arguments, swiglu_mlp=(False,), scale_mlp=(False,), norm_layer=(None,))
    fields = shapes_of(arrays, TIMM_NAMES, arguments.get("num_heads"))
    scaled = "blocks.0.gamma_1" in arrays
    return {
        **fields,
        "pool": pool_of(config) or fields["pool"],
        "layer_scale": float(arguments.get("init_values") or 0.1) if scaled else None,
    }


def timm_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns the evaluation preprocessing of timm's `config.json`; what it does not say is usual for BEiT."""
    with understood("config.json"):
        stated = {**HALF, **(config.get("pretrained_cfg") or {})}
    return stated_preprocessing({**config, "pretrained_cfg": stated}, size)


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub."""
    module = weights.module
    arguments = {
        "img_size": list(weights.image_size or weights.preprocessing.size),
        "patch_size": list(module.patch_size),
        "embed_dim": module.width,
        "depth": module.depth,
        "num_heads": module.heads,
        "mlp_ratio": mlp_ratio(module),
        "qkv_bias": module.qkv_bias,
        "init_values": module.layer_scale or 0.0,  # None would leave what the architecture has
        "use_abs_pos_emb": module.position == "learned",
        "use_rel_pos_bias": module.relative_bias == "blocks",
        "use_shared_rel_pos_bias": module.relative_bias == "shared",
        "global_pool": "avg" if module.pool == "gap" else "token",
        "use_fc_norm": module.pool_norm,
    }
    return hub_document(weights, "beit_base_patch16_224", arguments, module.width, "patch_embed.proj", "head")


TIMM = Layout(
    kind=timm.KIND,
    model=Beit,
    recognises=timm_recognises,
    fields=timm_fields,
    table=lambda module: list(entries_of(module, TIMM_NAMES)),
    trunk=timm.TRUNK + r"|^rel_pos_bias",
    size=lambda module: (14 * module.patch_size[0], 14 * module.patch_size[1]),
    fixed_size=True,
    told_size=lambda arrays: told_size(arrays, TIMM_NAMES),
    preprocessing=timm_preprocessing,
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    unused=timm.UNUSED,
    allowed={**ALLOWED, "gelu": ("exact",), "norm_epsilon": (1e-6,)},
)

HUGGINGFACE_NAMES = {
    "patches": "embeddings.patch_embeddings.projection",
    "cls": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "shared": "encoder.relative_position_bias",
    "block": "encoder.layer.{}",
    "attention": "attention.attention",
    "query": "query",
    "relative": "attention.attention.relative_position_bias",
    "out": "attention.output.dense",
    "norm_0": "layernorm_before",
    "norm_1": "layernorm_after",
    "dense_0": "intermediate.dense",
    "dense_1": "output.dense",
    "scale": "lambda",
    "pool_norm": "pooler.layernorm",
    "norm": "layernorm",
    "head": "classifier",
}


def huggingface_recognises(arrays: Arrays) -> bool:
    """Returns whether arrays are named as Hugging Face's BEiTs, whose queries alone have biases, not their keys."""
    first, names = "encoder.layer.0.attention.attention", huggingface_renamed(arrays)
    return f"{first}.query.bias" in names and f"{first}.key.weight" in names and f"{first}.key.bias" not in names


def huggingface_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of the bare model."""
    return {name.removeprefix("beit."): array for name, array in arrays.items()}


def huggingface_written(module: Beit, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of a model with a classifier, if there is one."""
    prefix = "beit." if module.num_classes else ""
    return {name if name.startswith("classifier.") else prefix + name: array for name, array in arrays.items()}


def huggingface_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or the library's model is computed otherwise than any here.
    """
    agreed(config, model_type=("beit",), hidden_act=tuple(GELU))
    scaled = "encoder.layer.0.lambda_1" in arrays
    return {
        **shapes_of(arrays, HUGGINGFACE_NAMES, config.get("num_attention_heads")),
        "gelu": GELU[str(config.get("hidden_act", "gelu"))],
        "norm_epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "layer_scale": float(config.get("layer_scale_init_value") or 0.1) if scaled else None,
    }


def huggingface_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns what `preprocessor_config.json` says; of an empty one, what the published models have."""
    if preprocessor:
        return preprocessing_of(preprocessor, size)
    return Preprocessing(size, min(size) * 256 // 224, "bicubic", **HALF)


def huggingface_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a BEiT.

    Raises:
      UserError: Hugging Face has no such BEiT.
    """
    module, size = weights.module, weights.image_size or weights.preprocessing.size
    if module.pool_norm != (module.pool == "gap"):
        raise UserError(
            "the Hugging Face format has a norm after the mean (pool=gap), or before the cls token is taken"
        )
    if size[0] != size[1] or module.patch_size[0] != module.patch_size[1]:
        raise UserError(
            f"the Hugging Face format has BEiTs of square images and patches, not {size[0]}x{size[1]} pixels"
        )
    fields = {
        "image_size": size[0],
        "patch_size": module.patch_size[0],
        "hidden_size": module.width,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.heads,
        "intermediate_size": module.mlp_dim,
        "hidden_act": "gelu" if module.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": module.norm_epsilon,
        "layer_scale_init_value": module.layer_scale or 0.0,
        "use_absolute_position_embeddings": module.position == "learned",
        "use_relative_position_bias": module.relative_bias == "blocks",
        "use_shared_relative_position_bias": module.relative_bias == "shared",
        "use_mean_pooling": module.pool == "gap",
        "use_mask_token": False,
    }
    return huggingface_document(weights, "Beit", fields)


HUGGINGFACE = Layout(
    kind=huggingface.KIND,
    model=Beit,
    recognises=huggingface_recognises,
    fields=huggingface_fields,
    table=lambda module: list(entries_of(module, HUGGINGFACE_NAMES)),
    trunk=r"^(embeddings|encoder|layernorm|pooler)",
    size=lambda module: (14 * module.patch_size[0], 14 * module.patch_size[1]),
    fixed_size=True,
    told_size=lambda arrays: told_size(arrays, HUGGINGFACE_NAMES),
    preprocessing=huggingface_preprocessing,
    stated_size=huggingface_size,
    stated_names=stated_classes,
    config=huggingface_config,
    preprocessor=huggingface.preprocessing_config,
    renamed=huggingface_renamed,
    written=huggingface_written,
    unused={
        r"embeddings\.mask_token$": "replaces masked patches in pre-training",
        r"^lm_head": "a head of the pre-training",
    },
    allowed={**ALLOWED, "qkv_bias": (True,)},
)
