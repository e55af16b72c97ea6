"""MobileViTs in timm's layout and in Hugging Face's."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax.data.preprocessing import Preprocessing
from vit_jax.errors import UserError
from vit_jax.layers.block import EncoderBlock
from vit_jax.layers.inverted_residual import rounded
from vit_jax.models.mobilevit import MobileViT
from vit_jax.models.registry import MOBILEVITS
from vit_jax.models.stages import hidden_width
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import preprocessing_of, stated_classes
from vit_jax.pretrained.huggingface_config import stated_size as huggingface_size
from vit_jax.pretrained.layout import (
    Arrays,
    Document,
    Layout,
    agreed,
    batch_norm_entries,
    conv_entries,
    huggingface_document,
    ratio_of,
)
from vit_jax.pretrained.names import Entry
from vit_jax.pretrained.timm import linear_entries, norm_entries
from vit_jax.pretrained.timm_config import hub_document, stated_names, stated_preprocessing, stated_size
from vit_jax.pretrained.weights import Weights, depth_of

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""The published models take pixels in [0, 1]."""


def entries_of(module: MobileViT, names: Mapping[str, str], places: Sequence[Sequence[str]]) -> Iterator[Entry]:
    """Yields the entries of all but the head.

    Args:
      names: of a library, of the parts of blocks, and of what stands before and after them.
      places: what the names of each stage's blocks begin with.
    """
    yield from normed_entries(names["stem"], "stem", names)
    for i, stage in enumerate(places):
        for j, theirs in enumerate(stage):
            ours = f"encoder/stage_{i}/block_{j}"
            if module.transformer_depths[i] and j == len(stage) - 1:
                yield from transformer_entries(module, theirs, ours, names, module.transformer_depths[i])
            else:
                for part in ("expand", "depthwise", "project"):
                    yield from normed_entries(f"{theirs}.{names[part]}", f"{ours}/{part}", names)
    if module.last_width:
        yield from normed_entries(names["last"], "pre_logits", names)


def normed_entries(theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of a convolution and the batch norm after it."""
    yield from conv_entries(f"{theirs}.{names['conv']}", f"{ours}/conv", bias=False)
    yield from batch_norm_entries(f"{theirs}.{names['norm']}", f"{ours}/norm")


def transformer_entries(
    module: MobileViT, theirs: str, ours: str, names: Mapping[str, str], depth: int
) -> Iterator[Entry]:
    """Yields the entries of a MobileViT block."""
    for part in ("local", "outward", "fusion"):
        yield from normed_entries(f"{theirs}.{names[part]}", f"{ours}/{part}", names)
    yield from conv_entries(f"{theirs}.{names['inward']}", f"{ours}/inward", bias=False)
    for k in range(depth):
        layer, place = f"{theirs}.{names['layers']}.{k}", f"{ours}/transformer/layer_{k}"
        if names is HUGGINGFACE_NAMES:
            yield from huggingface.vit_block(layer, place, module.qkv_bias)
        else:
            block = EncoderBlock(module.heads, mlp_dim=1, qkv_bias=module.qkv_bias, parent=None)
            yield from timm.block_entries(block, layer, place)
    yield from norm_entries(f"{theirs}.{names['layer_norm']}", f"{ours}/transformer/norm")


def shapes_of(
    arrays: Arrays, names: Mapping[str, str], places: Sequence[Sequence[str]], stated: Document
) -> dict[str, object]:
    """Returns the model's fields that names and shapes tell, but for the classes.

    Args:
      stated: the two ratios, where `config.json` says them.
    """
    found = [stage[-1] if f"{stage[-1]}.{names['inward']}.weight" in arrays else None for stage in places]
    if not any(found):
        raise UserError("the file holds no transformer at the end of a stage; it is incomplete or of another model")

    def kernel(part: str) -> tuple[int, ...]:
        return shape_of(arrays, f"{part}.{names['conv']}.weight", 4)

    lasts = [place or stage[-1] for stage, place in zip(places, found, strict=True)]
    ends = [f"{last}.{names['local' if last in found else 'project']}" for last in lasts]
    inside = [kernel(f"{place}.{names['expand']}")[:2] for stage in places for place in stage if place not in found]
    layers = [f"{place}.{names['layers']}" for place in found if place]
    hidden = [shape_of(arrays, f"{layer}.0.{names['hidden']}.weight", 2) for layer in layers]
    inward = [shape_of(arrays, f"{place}.{names['inward']}.weight", 4)[0] if place else 0 for place in found]
    counts = iter([depth_of(arrays, re.escape(layer) + r"\.(\d+)\.") for layer in layers])
    return {
        "depths": tuple(len(stage) for stage in places),
        "widths": tuple(kernel(end)[0] for end in ends),
        "transformer_depths": tuple(next(counts) if place else 0 for place in found),
        "transformer_widths": tuple(inward),
        "mlp_ratio": ratio_of([(width, outputs) for outputs, width in hidden], hidden_width, stated.get("mlp_ratio")),
        "expand_ratio": ratio_of(
            [(inputs, outputs) for outputs, inputs in inside],
            lambda width, ratio: rounded(width * ratio),
            stated.get("expand_ratio"),
        ),
        "kernel_size": kernel(f"{layers[0].removesuffix(names['layers'])}{names['local']}")[2],
        "stem_width": kernel(names["stem"])[0],
        "last_width": outputs_of(
            arrays, f"{names['last']}.{names['conv']}.weight", f"{names['last']}.{names['norm']}.bias"
        ),
    }


# timm.

TIMM_NAMES = {
    "stem": "stem",
    "conv": "conv",
    "norm": "bn",
    "expand": "conv1_1x1",
    "depthwise": "conv2_kxk",
    "project": "conv3_1x1",
    "local": "conv_kxk",
    "inward": "conv_1x1",
    "layers": "transformer",
    "hidden": "mlp.fc1",
    "layer_norm": "norm",
    "outward": "conv_proj",
    "fusion": "conv_fusion",
    "last": "final_conv",
}

TIMM_INWARD = r"stages\.\d+\.\d+\.conv_1x1\.weight$"


def timm_places(depths: Sequence[int]) -> list[list[str]]:
    """Returns what timm's names of each stage's blocks begin with."""
    return [[f"stages.{i}.{j}" for j in range(depth)] for i, depth in enumerate(depths)]


def timm_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    name = str(config.get("architecture") or "mobilevit")
    if any(".qkv_proj." in array for array in arrays) or not name.startswith("mobilevit") or "v2" in name:
        raise UserError("the file holds a MobileViT V2 or another relative, which is computed otherwise than any here")
    agreed(config, global_pool=("avg",))
    agreed(
        dict(config.get("model_args") or {}),
        global_pool=("avg", None),
        output_stride=(32,),
        act_layer=("silu", "swish"),
        norm_layer=("batchnorm", "batchnorm2d"),
        aa_layer=("",),
        attn_layer=(None,),
        downsample=("",),
        stem_type=("3x3",),
        stem_pool=("",),
        head_type=("classifier",),
    )
    stages = depth_of(arrays, r"stages\.(\d+)\.")
    places = timm_places([depth_of(arrays, rf"stages\.{i}\.(\d+)\.") for i in range(stages)])
    return {
        **shapes_of(arrays, TIMM_NAMES, places, {}),
        "qkv_bias": any(array.endswith(".attn.qkv.bias") for array in arrays),
        "num_classes": outputs_of(arrays, "head.fc.weight", "head.fc.bias"),
    }


def timm_table(module: MobileViT) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = list(entries_of(module, TIMM_NAMES, timm_places(module.depths)))
    return table + (list(linear_entries("head.fc", "head")) if module.num_classes else [])


def timm_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns the evaluation preprocessing of timm's `config.json`; what it does not say is as published."""
    with understood("config.json"):
        stated = {**UNIT, **(config.get("pretrained_cfg") or {})}
    return stated_preprocessing({**config, "pretrained_cfg": stated}, size)


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub.

    Raises:
      UserError: it has no architecture of these sizes.
    """
    module = weights.module
    for name, fields in MOBILEVITS.items():
        if all(getattr(module, field) == value for field, value in fields.items() if field != "last_width"):
            arguments = {"stem_chs": module.stem_width, "num_features": module.last_width}
            features = module.last_width or module.widths[-1]
            return hub_document(weights, f"mobilevit_{name}", arguments, features, "stem.conv", "head.fc")
    raise UserError(
        f"the timm format has MobileViTs of the published sizes ({', '.join(MOBILEVITS)}), not with widths "
        f"{module.widths}, transformer_widths {module.transformer_widths} and expand_ratio {module.expand_ratio}"
    )


TIMM = Layout(
    kind=timm.KIND,
    model=MobileViT,
    recognises=lambda arrays: "stem.conv.weight" in arrays and any(re.match(TIMM_INWARD, name) for name in arrays),
    fields=timm_fields,
    table=timm_table,
    trunk=r"^(stem|stages|final_conv)",
    size=lambda module: (64, 64),
    usual_size=(256, 256),
    preprocessing=timm_preprocessing,
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    allowed={
        "depths": ((1, 3, 2, 2, 2),),
        "transformer_depths": ((0, 0, 2, 4, 3),),
        "heads": (4,),
        "mlp_ratio": (2.0,),
        "qkv_bias": (True,),
        "patch_size": ((2, 2),),
        "kernel_size": (3,),
        "norm_epsilon": (1e-5,),
    },
)

HUGGINGFACE_NAMES = {
    "stem": "conv_stem",
    "conv": "convolution",
    "norm": "normalization",
    "expand": "expand_1x1",
    "depthwise": "conv_3x3",
    "project": "reduce_1x1",
    "local": "conv_kxk",
    "inward": "conv_1x1.convolution",
    "layers": "transformer.layer",
    "hidden": "intermediate.dense",
    "layer_norm": "layernorm",
    "outward": "conv_projection",
    "fusion": "fusion",
    "last": "conv_1x1_exp",
}

PREFIX = "mobilevit."
"""What names of the trunk begin with below a classifier."""


def huggingface_places(depths: Sequence[int], transformed: Sequence[bool]) -> list[list[str]]:
    """Returns what Hugging Face's names of each stage's blocks begin with."""
    return [
        [f"encoder.layer.{i}.downsampling_layer", f"encoder.layer.{i}"]
        if found
        else [f"encoder.layer.{i}.layer.{j}" for j in range(depth)]
        for i, (depth, found) in enumerate(zip(depths, transformed, strict=True))
    ]


def huggingface_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of the bare model."""
    return {name.removeprefix(PREFIX): array for name, array in arrays.items()}


def huggingface_written(module: MobileViT, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of a model with a classifier, if there is one."""
    prefix = PREFIX if module.num_classes else ""
    return {name if name.startswith("classifier.") else prefix + name: array for name, array in arrays.items()}


def huggingface_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or the library's model is computed otherwise than any here.
    """
    agreed(config, model_type=("mobilevit",), hidden_act=("silu", "swish"), output_stride=(32,))
    stages = depth_of(arrays, r"encoder\.layer\.(\d+)\.")
    transformed = [f"encoder.layer.{i}.{HUGGINGFACE_NAMES['inward']}.weight" in arrays for i in range(stages)]
    depths = [
        0 if found else depth_of(arrays, rf"encoder\.layer\.{i}\.layer\.(\d+)\.") for i, found in enumerate(transformed)
    ]
    fields = shapes_of(arrays, HUGGINGFACE_NAMES, huggingface_places(depths, transformed), config)
    side = int(config.get("patch_size", 2))
    return {
        **fields,
        "heads": int(config.get("num_attention_heads", 4)),
        "patch_size": (side, side),
        "qkv_bias": any(name.endswith(".attention.attention.query.bias") for name in arrays),
        "norm_epsilon": float(config.get("layer_norm_eps", 1e-5)),
        "num_classes": outputs_of(arrays, "classifier.weight", "classifier.bias"),
    }


def huggingface_table(module: MobileViT) -> list[Entry]:
    """Returns the names of a model's arrays."""
    places = huggingface_places(module.depths, [depth > 0 for depth in module.transformer_depths])
    table = list(entries_of(module, HUGGINGFACE_NAMES, places))
    return table + (list(linear_entries("classifier", "head")) if module.num_classes else [])


def huggingface_for_rgb(arrays: Arrays, preprocessor: Document) -> tuple[Arrays, list[str]]:
    """Returns arrays for images of red, green, blue; the published models are for blue, green, red.

    Their processor turns the channels round, so that the stem's kernel is turned round here instead.
    """
    if not preprocessor:
        return arrays, ["no preprocessor_config.json beside it: the images' channels are taken to be red, green, blue"]
    kernel = f"{HUGGINGFACE_NAMES['stem']}.convolution.weight"
    if not preprocessor.get("do_flip_channel_order", "MobileViT" in processor_of(preprocessor)):
        return arrays, []
    turned = {**arrays, kernel: np.ascontiguousarray(shaped(arrays, kernel)[:, ::-1])}
    return turned, ["the stem's kernel is turned round for images whose channels are red, green, blue"]


def processor_of(preprocessor: Document) -> str:
    """Returns the class of an image processor."""
    return str(preprocessor.get("image_processor_type") or preprocessor.get("feature_extractor_type") or "")


def shaped(arrays: Arrays, kernel: str) -> np.ndarray:
    """Returns a convolution's kernel."""
    shape_of(arrays, kernel, 4)
    return arrays[kernel]


def huggingface_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns what `preprocessor_config.json` says; of an empty one, what the published models have.

    MobileViT's processor knows no normalisation.
    """
    if not preprocessor:
        return Preprocessing((256, 256), 288, **UNIT).at_size(size)
    normalises = "MobileViT" not in processor_of(preprocessor) and "image_mean" in preprocessor
    return preprocessing_of({"do_normalize": normalises, **preprocessor}, size)


def huggingface_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a MobileViT.

    Raises:
      UserError: Hugging Face has no such MobileViT.
    """
    module, size = weights.module, weights.image_size or weights.preprocessing.size
    if not module.last_width:
        raise UserError("the Hugging Face format has MobileViTs with a convolution before the mean: last_width above 0")
    if module.patch_size[0] != module.patch_size[1]:
        raise UserError(f"the Hugging Face format has square patches, not {module.patch_size}")
    fields = {
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": module.patch_size[0],
        "hidden_sizes": list(module.transformer_widths[2:]),
        "neck_hidden_sizes": [module.stem_width, *module.widths, module.last_width],
        "num_attention_heads": module.heads,
        "mlp_ratio": module.mlp_ratio,
        "expand_ratio": module.expand_ratio,
        "hidden_act": "silu",
        "conv_kernel_size": module.kernel_size,
        "output_stride": 32,
        "layer_norm_eps": module.norm_epsilon,
        "qkv_bias": module.qkv_bias,
    }
    return huggingface_document(weights, "MobileViT", fields)


HUGGINGFACE = Layout(
    kind=huggingface.KIND,
    model=MobileViT,
    recognises=lambda arrays: (
        "conv_stem.convolution.weight" in (renamed := huggingface_renamed(arrays))
        and any(re.match(r"encoder\.layer\.\d+\.conv_1x1\.convolution\.weight$", name) for name in renamed)
    ),
    fields=huggingface_fields,
    table=huggingface_table,
    trunk=r"^(conv_stem|encoder|conv_1x1_exp)",
    size=lambda module: (64, 64),
    usual_size=(256, 256),
    preprocessing=huggingface_preprocessing,
    stated_size=huggingface_size,
    stated_names=stated_classes,
    config=huggingface_config,
    preprocessor=huggingface.preprocessing_config,
    renamed=huggingface_renamed,
    written=huggingface_written,
    for_rgb=huggingface_for_rgb,
    unused={r"^segmentation_head": "a head that marks the places of classes in an image"},
    allowed={"depths": ((1, 3, 2, 2, 2),), "transformer_depths": ((0, 0, 2, 4, 3),)},
)
