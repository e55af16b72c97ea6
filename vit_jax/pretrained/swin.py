"""Swin Transformers, V1 and V2, in timm's layout, that of its authors, and Hugging Face's."""

import functools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.swin import SwinTransformer
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import GELU, preprocessing_of, stated_classes
from vit_jax.pretrained.huggingface_config import stated_size as huggingface_size
from vit_jax.pretrained.layout import Arrays, Document, Layout, agreed, depths_of, huggingface_document
from vit_jax.pretrained.names import Convolution, Entry, Flat, Packed, Rows, Transposed, entry
from vit_jax.pretrained.swin_windows import (
    chosen_windows,
    huggingface_windows,
    require_same_windows,
    stated_windows,
    told_by_architecture,
)
from vit_jax.pretrained.timm import QKV, linear_entries, norm_entries
from vit_jax.pretrained.timm_config import gelu_of, hub_document, stated_names, stated_preprocessing, stated_size
from vit_jax.pretrained.weights import Weights


def entries_of(module: SwinTransformer, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of all but the head.

    Args:
      names: of a library, of the patches, the stages' blocks and their parts.
    """
    yield entry(f"{names['patches']}.weight", "patch_embed/kernel", Convolution())
    yield entry(f"{names['patches']}.bias", "patch_embed/bias")
    yield from norm_entries(names["patch_norm"], "patch_norm")
    for i, depth in enumerate(module.depths):
        ours = f"encoder/stage_{i}"
        if i:
            theirs = f"{names['stage'].format(i - names['ahead'])}.downsample"
            yield from norm_entries(f"{theirs}.norm", f"{ours}/downsample/norm")
            yield from linear_entries(f"{theirs}.reduction", f"{ours}/downsample/reduction", bias=False)
        for j in range(depth):
            yield from block_entries(module, f"{names['stage'].format(i)}.blocks.{j}", f"{ours}/block_{j}", names)
    yield from norm_entries(names["norm"], "norm")


def block_entries(module: SwinTransformer, theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of one block."""
    for k in (0, 1):
        yield from norm_entries(f"{theirs}.{names[f'norm_{k}']}", f"{ours}/norm_{k}")
        yield from linear_entries(f"{theirs}.{names[f'dense_{k}']}", f"{ours}/mlp/dense_{k}")
    yield from linear_entries(f"{theirs}.{names['out']}", f"{ours}/attention/out", in_axes=2)
    yield from projections(module, f"{theirs}.{names['attention']}", f"{ours}/attention", packed="query" not in names)
    attention = f"{theirs}.{names['attention']}"
    if module.version == 1:
        yield entry(table_name(theirs, names), f"{ours}/relative_bias/table", Rows())
        return
    yield entry(f"{attention}.logit_scale", f"{ours}/attention/logit_scale")
    yield from linear_entries(f"{attention}.{names['continuous']}.0", f"{ours}/relative_bias/hidden")
    yield from linear_entries(f"{attention}.{names['continuous']}.2", f"{ours}/relative_bias/out", bias=False)


def projections(module: SwinTransformer, theirs: str, ours: str, packed: bool) -> Iterator[Entry]:
    """Yields the entries of queries, keys and values: packed as in timm, or each by itself."""
    biased = [part for part in QKV if module.qkv_bias and (part != "key" or module.version == 1)]
    if not packed:
        for part in QKV:
            yield from linear_entries(f"{theirs}.{part}", f"{ours}/{part}", bias=part in biased)
        return
    yield entry(f"{theirs}.qkv.weight", [f"{ours}/{part}/kernel" for part in QKV], Packed(Transposed()))
    if biased == list(QKV):
        yield entry(f"{theirs}.qkv.bias", [f"{ours}/{part}/bias" for part in QKV], Packed(Flat()))
        return
    for part in biased:
        yield entry(f"{theirs}.{part[0]}_bias", f"{ours}/{part}/bias", Flat())


def shapes_of(arrays: Arrays, names: Mapping[str, str]) -> dict[str, object]:
    """Returns the model's fields that names and shapes tell, but for the classes and the windows."""
    stage = re.escape(names["stage"]).replace(r"\{\}", r"(\d+)")
    depths = depths_of(arrays, rf"{stage}\.blocks\.(\d+)\.")
    blocks = [f"{names['stage'].format(i)}.blocks.0" for i in range(len(depths))]
    version = 2 if f"{blocks[0]}.{names['attention']}.logit_scale" in arrays else 1
    widths = tuple(shape_of(arrays, f"{block}.{names['norm_0']}.weight", 1)[0] for block in blocks)
    hidden = shape_of(arrays, f"{blocks[-1]}.{names['dense_0']}.weight", 2)[0]  # the widest tells the ratio best
    if version == 2:
        heads = tuple(shape_of(arrays, f"{block}.{names['attention']}.logit_scale", 3)[0] for block in blocks)
    else:
        heads = tuple(shape_of(arrays, table_name(block, names), 2)[1] for block in blocks)
    _, _, height, breadth = shape_of(arrays, f"{names['patches']}.weight", 4)
    query = f"{blocks[0]}.{names['attention']}." + ("query.bias" if "query" in names else "qkv.bias")
    return {
        "patch_size": (height, breadth),
        "depths": depths,
        "widths": widths,
        "heads": heads,
        "mlp_ratio": hidden / widths[-1],
        "version": version,
        "qkv_bias": query in arrays or f"{blocks[0]}.{names['attention']}.q_bias" in arrays,
    }


def table_name(block: str, names: Mapping[str, str]) -> str:
    """Returns the name of a block's table of relative positions."""
    return f"{block}.{names['attention']}.relative_position_bias_table"


def completed(
    names: Mapping[str, str], arrays: Arrays, fields: Mapping[str, object], image_size: tuple[int, int] | None
) -> tuple[dict[str, object], list[str]]:
    """Returns the windows of a file, and the note of what was assumed; see `chosen_windows`."""
    tables = []
    if fields["version"] == 1:
        blocks = [f"{names['stage'].format(i)}.blocks.0" for i in range(len(fields["depths"]))]
        tables = [shape_of(arrays, table_name(block, names), 2)[0] for block in blocks]
    return chosen_windows(fields, tables, image_size)


def smallest_size(module: SwinTransformer) -> tuple[int, int]:
    """Returns the smallest image size at which no map is smaller than its window: 224 pixels for windows of 7."""
    places = max(window * 2**i for i, window in enumerate(module.of_stages("window_size", 1)))
    return places * module.patch_size[0], places * module.patch_size[1]


# timm, and the authors' files.

TIMM_NAMES = {
    "patches": "patch_embed.proj",
    "patch_norm": "patch_embed.norm",
    "stage": "layers.{}",
    "ahead": 0,
    "norm_0": "norm1",
    "norm_1": "norm2",
    "attention": "attn",
    "out": "attn.proj",
    "continuous": "cpb_mlp",
    "dense_0": "mlp.fc1",
    "dense_1": "mlp.fc2",
    "norm": "norm",
}


def timm_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under timm's names of today; the authors merge patches at the end of a stage."""
    if "layers.0.downsample.reduction.weight" not in arrays:
        return dict(arrays)
    result = {}
    for name, array in arrays.items():
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", name)
        result[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = array
    return result


def written(module: SwinTransformer, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays with the scale of each head as both libraries keep it, `[heads, 1, 1]`."""
    return {name: array[:, None, None] if name.endswith(".logit_scale") else array for name, array in arrays.items()}


def timm_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    arguments = {**told_by_architecture(str(config.get("architecture") or "")), **(config.get("model_args") or {})}
    agreed(
        arguments,
        global_pool=("avg",),
        norm_layer=(None,),
        embed_layer=(None,),
        head_dim=(None,),
        always_partition=(False,),
    )
    fields = shapes_of(arrays, TIMM_NAMES)
    if isinstance(arguments.get("mlp_ratio"), int | float):
        fields["mlp_ratio"] = float(arguments["mlp_ratio"])
    trained = tuple(int(window) for window in arguments.get("pretrained_window_sizes") or ())[: len(fields["depths"])]
    return {
        **fields,
        "window_size": stated_windows(arguments.get("window_size")),
        "trained_window": trained if any(trained) else 0,
        "gelu": gelu_of(arguments, swiglu=False),
        "num_classes": outputs_of(arrays, "head.fc.weight", "head.fc.bias"),
    }


def timm_table(module: SwinTransformer) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = list(entries_of(module, TIMM_NAMES))
    return table + (list(linear_entries("head.fc", "head")) if module.num_classes else [])


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub.

    Raises:
      UserError: timm has no such Swin Transformer.
    """
    module = weights.module
    require_same_windows(weights, timm.KIND, square_windows=False, deciding_rows=0)
    if module.version == 1 and module.gelu != "exact":
        raise UserError(
            "the timm format has Swin Transformers of version 1 with gelu=exact only; --model.gelu=exact writes "
            "it all the same, as another model"
        )
    doubled = module.widths == tuple(module.widths[0] * 2**i for i in range(module.depth))
    windows = module.of_stages("window_size", 1)
    arguments = {
        "img_size": list(weights.image_size or weights.preprocessing.size),
        "patch_size": list(module.patch_size),
        "embed_dim": module.widths[0] if doubled else list(module.widths),
        "depths": list(module.depths),
        "num_heads": list(module.heads),
        "window_size": windows[0] if len(set(windows)) == 1 else [[window, window] for window in windows],
        "mlp_ratio": module.mlp_ratio,
        "qkv_bias": module.qkv_bias,
    }
    if module.version == 2:
        arguments["pretrained_window_sizes"] = list(module.of_stages("trained_window", 0))
        arguments["act_layer"] = "gelu_tanh" if module.gelu == "tanh" else "gelu"
    architecture = "swin_tiny_patch4_window7_224" if module.version == 1 else "swinv2_tiny_window8_256"
    return hub_document(weights, architecture, arguments, module.widths[-1], "patch_embed.proj", "head.fc")


TIMM = Layout(
    kind=timm.KIND,
    model=SwinTransformer,
    recognises=lambda arrays: {"layers.0.blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= arrays.keys(),
    fields=timm_fields,
    completed=functools.partial(completed, TIMM_NAMES),
    table=timm_table,
    trunk=r"^(patch_embed|layers|norm|absolute_pos_embed)",
    size=smallest_size,
    fixed_size=True,
    preprocessing=lambda config, preprocessor, size: stated_preprocessing(config, size),
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    renamed=timm_renamed,
    written=written,
    unused={r"attn_mask$": "computed from the image's size"},
    allowed={"norm_epsilon": (1e-5,)},
)

HUGGINGFACE_NAMES = {
    "patches": "embeddings.patch_embeddings.projection",
    "patch_norm": "embeddings.norm",
    "stage": "encoder.layers.{}",
    "ahead": 1,
    "norm_0": "layernorm_before",
    "norm_1": "layernorm_after",
    "attention": "attention.self",
    "query": "query",
    "out": "attention.output.dense",
    "continuous": "continuous_position_bias_mlp",
    "dense_0": "intermediate.dense",
    "dense_1": "output.dense",
    "norm": "layernorm",
}


def huggingface_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of the bare model."""
    return {re.sub(r"^swin(v2)?\.", "", name): array for name, array in arrays.items()}


def huggingface_written(module: SwinTransformer, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of a model with a classifier, if there is one."""
    prefix = "" if not module.num_classes else "swin." if module.version == 1 else "swinv2."
    named = written(module, arrays)
    return {name if name.startswith("classifier.") else prefix + name: array for name, array in named.items()}


def huggingface_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or the library's model is computed otherwise than any here.
    """
    agreed(config, model_type=("swin", "swinv2"), hidden_act=tuple(GELU))
    fields = shapes_of(arrays, HUGGINGFACE_NAMES)
    if "mlp_ratio" in config:
        fields["mlp_ratio"] = float(config["mlp_ratio"])
    trained = tuple(int(window) for window in config.get("pretrained_window_sizes") or ())[: len(fields["depths"])]
    size = huggingface_size(config)
    return {
        **fields,
        "window_size": int(config["window_size"]) if "window_size" in config else None,
        "trained_window": trained if any(trained) else 0,
        "gelu": GELU[str(config.get("hidden_act", "gelu"))],
        "norm_epsilon": float(config.get("layer_norm_eps", 1e-5)),
        **(huggingface_windows(fields, size) if size else {"square_windows": True}),
        "num_classes": outputs_of(arrays, "classifier.weight", "classifier.bias"),
    }


def huggingface_table(module: SwinTransformer) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = list(entries_of(module, HUGGINGFACE_NAMES))
    return table + (list(linear_entries("classifier", "head")) if module.num_classes else [])


def huggingface_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns what `preprocessor_config.json` says; of an empty one, what the published models have."""
    return preprocessing_of(preprocessor, size, dino=True)


def huggingface_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a Swin or a Swin V2.

    Raises:
      UserError: Hugging Face has no such Swin Transformer.
    """
    module, size = weights.module, weights.image_size or weights.preprocessing.size
    theirs = {field: getattr(module, field) for field in ("version", "patch_size", "depths")}
    require_same_windows(weights, huggingface.KIND, **huggingface_windows(theirs, size))
    windows = set(module.of_stages("window_size", 1))
    if len(windows) > 1:
        raise UserError(f"the Hugging Face format has one window for all stages, not {module.window_size}")
    if module.widths != tuple(module.widths[0] * 2**i for i in range(module.depth)):
        raise UserError(f"the Hugging Face format has widths that double from stage to stage, not {module.widths}")
    if module.patch_size[0] != module.patch_size[1]:
        raise UserError(f"the Hugging Face format has square patches, not {module.patch_size}")
    if module.version == 1 and min(module.maps_sides(size)[-1]) < max(windows):
        raise UserError(
            f"the Hugging Face format has maps that are not smaller than their windows, {max(windows)} places; those "
            f"of {size[0]}x{size[1]} images are"
        )
    fields = {
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": module.patch_size[0],
        "embed_dim": module.widths[0],
        "hidden_size": module.widths[-1],
        "depths": list(module.depths),
        "num_heads": list(module.heads),
        "window_size": max(windows),
        "mlp_ratio": module.mlp_ratio,
        "qkv_bias": module.qkv_bias,
        "hidden_act": "gelu" if module.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": module.norm_epsilon,
        "use_absolute_embeddings": False,
    }
    if module.version == 2:
        fields["pretrained_window_sizes"] = list(module.of_stages("trained_window", 0))
    return huggingface_document(weights, "Swin" if module.version == 1 else "Swinv2", fields)


HUGGINGFACE = Layout(
    kind=huggingface.KIND,
    model=SwinTransformer,
    recognises=lambda arrays: "encoder.layers.0.blocks.0.attention.self.query.weight" in huggingface_renamed(arrays),
    fields=huggingface_fields,
    completed=functools.partial(completed, HUGGINGFACE_NAMES),
    table=huggingface_table,
    trunk=r"^(embeddings|encoder|layernorm)",
    size=smallest_size,
    fixed_size=True,
    preprocessing=huggingface_preprocessing,
    stated_size=huggingface_size,
    stated_names=stated_classes,
    config=huggingface_config,
    preprocessor=huggingface.preprocessing_config,
    renamed=huggingface_renamed,
    written=huggingface_written,
    unused={r"embeddings\.mask_token$": "replaces masked patches in pre-training", r"^decoder\.": "a decoder"},
)
