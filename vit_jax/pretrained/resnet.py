"""ResNets in timm's layout, whose names are torchvision's too, and in Hugging Face's."""

import re
from collections.abc import Iterator

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.resnet import ResNet
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.convnext import huggingface_preprocessing, timm_preprocessing
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import stated_classes
from vit_jax.pretrained.huggingface_config import stated_size as huggingface_size
from vit_jax.pretrained.layout import (
    Arrays,
    Document,
    Layout,
    agreed,
    batch_norm_entries,
    conv_entries,
    depths_of,
    huggingface_document,
)
from vit_jax.pretrained.names import Entry
from vit_jax.pretrained.timm import linear_entries
from vit_jax.pretrained.timm_config import hub_document, stated_names, stated_size
from vit_jax.pretrained.weights import Weights

ARCHITECTURES = r"(tv_|gluon_|ssl_|swsl_)?resnet\d+(_v1b)?$"
"""timm's names of models that are computed as those here; others, such as `resnetblur50`, may have the same arrays."""

SMALL_KERNEL = 3
"""The side of the stem's kernel in a ResNet for small images, by which it is recognised."""


def normed_entries(conv: str, norm: str, ours: str, name: int | str) -> Iterator[Entry]:
    """Yields the entries of a convolution and the batch norm after it."""
    yield from conv_entries(conv, f"{ours}/conv_{name}", bias=False)
    yield from batch_norm_entries(norm, f"{ours}/norm_{name}")


def stem_of(arrays: Arrays, kernel: str) -> dict[str, object]:
    """Returns the fields of the stem, told from its kernel."""
    channels, _, side, _ = shape_of(arrays, kernel, 4)
    return {"stem_width": channels, "small_stem": side == SMALL_KERNEL}


def convolutions(module: ResNet) -> int:
    """Returns the number of convolutions in the branch of a block."""
    return 3 if module.bottleneck else 2


# timm and torchvision.

TIMM_BLOCK = r"layer(\d+)\.(\d+)\."


def timm_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    name, arguments = config.get("architecture"), dict(config.get("model_args") or {})
    if name is not None and not re.match(ARCHITECTURES, str(name)):
        raise UserError(f"config.json: architecture {name!r} is computed otherwise than the models here")
    agreed(config, global_pool=("avg",))
    agreed(
        arguments,
        act_layer=("relu", None),
        norm_layer=("batchnorm2d", "batchnorm", None),
        aa_layer=(None, ""),
        block_args=(None, {}),
        output_stride=(32,),
        global_pool=("avg",),
    )
    depths = depths_of(arrays, TIMM_BLOCK)
    return {
        **stem_of(arrays, "conv1.weight"),
        "depths": depths,
        "widths": tuple(shape_of(arrays, f"layer{i}.0.conv1.weight", 4)[0] for i in range(1, len(depths) + 1)),
        "bottleneck": "layer1.0.conv3.weight" in arrays,
        "num_classes": outputs_of(arrays, "fc.weight", "fc.bias"),
    }


def timm_table(module: ResNet) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = [*conv_entries("conv1", "stem/conv", bias=False), *batch_norm_entries("bn1", "stem/norm")]
    for i, depth in enumerate(module.depths):
        for j in range(depth):
            theirs, ours = f"layer{i + 1}.{j}", f"encoder/stage_{i}/block_{j}"
            for k in range(convolutions(module)):
                table += normed_entries(f"{theirs}.conv{k + 1}", f"{theirs}.bn{k + 1}", ours, k)
            if j == 0 and module.projects(i):
                table += normed_entries(f"{theirs}.downsample.0", f"{theirs}.downsample.1", ours, "proj")
    return table + (list(linear_entries("fc", "head")) if module.num_classes else [])


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub.

    Raises:
      UserError: timm's ResNets have another number of stages.
    """
    module = weights.module
    if len(module.depths) != 4:
        raise UserError(f"the timm format has ResNets of 4 stages, not {len(module.depths)}")
    # A class cannot be written to JSON, so the kind of block has to be that of the architecture.
    architecture = "resnet50" if module.bottleneck else "resnet18"
    arguments = {"layers": list(module.depths), "channels": list(module.widths)}
    return hub_document(weights, architecture, arguments, module.outputs(3), "conv1", "fc")


TIMM = Layout(
    kind=timm.KIND,
    model=ResNet,
    recognises=lambda arrays: "layer1.0.conv1.weight" in arrays,
    fields=timm_fields,
    table=timm_table,
    trunk=r"^(conv1|bn1|layer\d|maxpool)",
    size=lambda module: (32, 32),
    preprocessing=timm_preprocessing,
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    allowed={"stem_width": (64,), "small_stem": (False,), "downsample_first": (False,), "stride_first": (False,)},
)

HUGGINGFACE_BLOCK = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
FIRST = "encoder.stages.0.layers.0"


def huggingface_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of the bare model."""
    return {name.removeprefix("resnet."): array for name, array in arrays.items()}


def huggingface_written(module: ResNet, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of a model with a classifier, if there is one."""
    prefix = "resnet." if module.num_classes else ""
    return {name if name.startswith("classifier.") else prefix + name: array for name, array in arrays.items()}


def huggingface_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or the library's model is computed otherwise than any here.
    """
    agreed(config, model_type=("resnet",), hidden_act=("relu",))
    depths = depths_of(arrays, HUGGINGFACE_BLOCK)
    inner = (f"encoder.stages.{i}.layers.0.layer.0.convolution.weight" for i in range(len(depths)))
    return {
        **stem_of(arrays, "embedder.embedder.convolution.weight"),
        "depths": depths,
        "widths": tuple(shape_of(arrays, kernel, 4)[0] for kernel in inner),
        "bottleneck": f"{FIRST}.layer.2.convolution.weight" in arrays,
        "downsample_first": bool(config.get("downsample_in_first_stage", False)),
        "stride_first": bool(config.get("downsample_in_bottleneck", False)),
        "num_classes": outputs_of(arrays, "classifier.1.weight", "classifier.1.bias"),
    }


def huggingface_table(module: ResNet) -> list[Entry]:
    """Returns the names of a model's arrays."""
    stem = "embedder.embedder"
    table = [
        *conv_entries(f"{stem}.convolution", "stem/conv", bias=False),
        *batch_norm_entries(f"{stem}.normalization", "stem/norm"),
    ]
    for i, depth in enumerate(module.depths):
        for j in range(depth):
            theirs, ours = f"encoder.stages.{i}.layers.{j}", f"encoder/stage_{i}/block_{j}"
            parts = {k: f"{theirs}.layer.{k}" for k in range(convolutions(module))}
            if j == 0 and module.projects(i):
                parts["proj"] = f"{theirs}.shortcut"
            for name, part in parts.items():
                table += normed_entries(f"{part}.convolution", f"{part}.normalization", ours, name)
    return table + (list(linear_entries("classifier.1", "head")) if module.num_classes else [])


def huggingface_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a ResNet."""
    module = weights.module
    fields = {
        "embedding_size": module.stem_width,
        "hidden_sizes": [module.outputs(i) for i in range(len(module.depths))],
        "depths": list(module.depths),
        "layer_type": "bottleneck" if module.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": module.downsample_first,
        "downsample_in_bottleneck": module.stride_first,
    }
    return huggingface_document(weights, "ResNet", fields)


HUGGINGFACE = Layout(
    kind=huggingface.KIND,
    model=ResNet,
    recognises=lambda arrays: f"{FIRST}.layer.0.convolution.weight" in huggingface_renamed(arrays),
    fields=huggingface_fields,
    table=huggingface_table,
    trunk=r"^(embedder|encoder)",
    size=lambda module: (32, 32),
    preprocessing=huggingface_preprocessing,
    stated_size=huggingface_size,
    stated_names=stated_classes,
    config=huggingface_config,
    preprocessor=huggingface.preprocessing_config,
    renamed=huggingface_renamed,
    written=huggingface_written,
    allowed={"small_stem": (False,)},
)
