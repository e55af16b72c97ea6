"""ConvNeXt, V1 and V2, in timm's layout, that of its authors, and Hugging Face's."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.models.convnext import ConvNeXt
from vit_jax.pretrained import huggingface, timm
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.huggingface_config import GELU, RESAMPLING, preprocessing_of, stated_classes
from vit_jax.pretrained.huggingface_config import stated_size as huggingface_size
from vit_jax.pretrained.layout import (
    Arrays,
    Document,
    Layout,
    agreed,
    conv_entries,
    depths_of,
    huggingface_document,
)
from vit_jax.pretrained.names import Entry, entry
from vit_jax.pretrained.timm import linear_entries, norm_entries
from vit_jax.pretrained.timm_config import gelu_of, hub_document, stated_names, stated_preprocessing, stated_size
from vit_jax.pretrained.weights import Weights

CONVOLUTIONAL = {
    40: ("atto", (2, 2, 6, 2)),
    48: ("femto", (2, 2, 6, 2)),
    64: ("pico", (2, 2, 6, 2)),
    80: ("nano", (2, 2, 8, 2)),
}
"""timm's small sizes by their first width, with their depths: their MLPs are stored as convolutions by 1x1."""

TOLD_BY_ARCHITECTURE = {
    "convnext_xxlarge": {"norm_eps": 1e-5},
    "test_convnext": {"norm_eps": 1e-5, "act_layer": "gelu_tanh"},
    "test_convnext2": {"norm_eps": 1e-5, "act_layer": "gelu_tanh"},
}
"""Arguments of timm's definitions that arrays do not tell, where they are not the usual ones."""

OTHER_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
"""The authors' own names, and timm's for the same."""

LARGEST_PATCH = 7
"""In pixels: with larger ones timm dilates the last stage's convolutions in place of halving its map."""


def timm_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns the evaluation preprocessing of timm's `config.json`; what it does not say is usual for convolutions."""
    with understood("config.json"):
        stated = {"crop_pct": 0.875, **(config.get("pretrained_cfg") or {})}
    return stated_preprocessing({**config, "pretrained_cfg": stated}, size)


def huggingface_preprocessing(config: Document, preprocessor: Document, size: tuple[int, int]) -> Preprocessing:
    """Returns what `preprocessor_config.json` says; of an empty one, what the published models have.

    The processor of ConvNeXt, which ResNet has too, enlarges by `crop_pct` and crops; from 384 pixels on it squashes.
    """
    if preprocessor and "crop_pct" not in preprocessor and "size" in preprocessor:
        return preprocessing_of(preprocessor, size)
    with understood("preprocessor_config.json"):
        stated = preprocessor.get("size", min(size))
        edge = int(stated["shortest_edge"] if isinstance(stated, Mapping) else stated)
        resize = int(edge / float(preprocessor.get("crop_pct") or 224 / 256)) if edge < 384 else None
        normalised = preprocessor.get("do_normalize", True)
        seen = Preprocessing(
            (edge, edge),
            resize,
            RESAMPLING[int(preprocessor.get("resample", 3))],
            mean=tuple(preprocessor.get("image_mean") or IMAGENET_MEAN) if normalised else (0.0, 0.0, 0.0),
            std=tuple(preprocessor.get("image_std") or IMAGENET_STD) if normalised else (1.0, 1.0, 1.0),
        )
        seen.transform()  # raises where it is not possible
    return seen


def entries_of(module: ConvNeXt, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of all but the final norm and the head.

    Args:
      names: of a library, of the stem, the stages' blocks and their parts.
    """
    yield from conv_entries(names["patches"], "stem/conv")
    yield from norm_entries(names["patches_norm"], "stem/norm")
    for i, depth in enumerate(module.depths):
        ours = f"encoder/stage_{i}"
        if module.halves(i):
            theirs = names["downsample"].format(i)
            yield from norm_entries(f"{theirs}.0", f"{ours}/downsample/norm")
            yield from conv_entries(f"{theirs}.1", f"{ours}/downsample/conv")
        for j in range(depth):
            yield from block_entries(module, names["block"].format(i, j), f"{ours}/block_{j}", names)


def block_entries(module: ConvNeXt, theirs: str, ours: str, names: Mapping[str, str]) -> Iterator[Entry]:
    """Yields the entries of one block."""
    yield from conv_entries(f"{theirs}.{names['conv']}", f"{ours}/conv")
    yield from norm_entries(f"{theirs}.{names['norm']}", f"{ours}/norm")
    for k in (0, 1):
        yield from linear_entries(f"{theirs}.{names['mlp']}{k + 1}", f"{ours}/mlp/dense_{k}")
    if module.grn:
        yield entry(f"{theirs}.{names['grn']}.weight", f"{ours}/mlp/grn/scale")
        yield entry(f"{theirs}.{names['grn']}.bias", f"{ours}/mlp/grn/bias")
    if module.layer_scale is not None:
        yield entry(f"{theirs}.{names['scale']}", f"{ours}/layer_scale/gamma")


def shapes_of(arrays: Arrays, names: Mapping[str, str]) -> dict[str, object]:
    """Returns the model's fields that names and shapes tell, but for the classes and the layer scale."""
    first = names["block"].format(0, 0)
    block = re.escape(names["block"]).replace(r"\{\}", r"(\d+)")
    depths = depths_of(arrays, rf"{block}\.")
    convolutions = [f"{names['block'].format(i, 0)}.{names['conv']}.weight" for i in range(len(depths))]
    sides = [shape_of(arrays, convolution, 4)[2] for convolution in convolutions]
    if len(set(sides)) > 1:
        raise UserError(f"the kernels of the stages have different sides ({', '.join(map(str, sides))}); one is known")
    return {
        "depths": depths,
        "widths": tuple(arrays[convolution].shape[0] for convolution in convolutions),
        "patch_size": shape_of(arrays, f"{names['patches']}.weight", 4)[2],
        "kernel_size": sides[0],
        "grn": f"{first}.{names['grn']}.weight" in arrays,
        "downsample_first": f"{names['downsample'].format(0)}.1.weight" in arrays,
    }


# timm, and the authors' files.

TIMM_NAMES = {
    "patches": "stem.0",
    "patches_norm": "stem.1",
    "downsample": "stages.{}.downsample",
    "block": "stages.{}.blocks.{}",
    "conv": "conv_dw",
    "norm": "norm",
    "mlp": "mlp.fc",
    "grn": "mlp.grn",
    "scale": "gamma",
}


TIMM_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."
TIMM_MLP = r"stages\.\d+\.blocks\.\d+\.mlp\.fc[12]\.weight$"
FINAL_NORMS = ("head.norm", "norm_pre", "norm")


def timm_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under timm's names, the MLP's kernels as matrices.

    A pre-trained V2 (`fcmae`), which has no final norm, gets one that is new.
    """
    result, authors = {}, "stages.0.0.dwconv.weight" in arrays
    for name, array in arrays.items():
        for pattern, replacement in OTHER_NAMES if authors else ():
            name = re.sub(pattern, replacement, name)
        pointwise = array.ndim == 4 and array.shape[2:] == (1, 1) and re.match(TIMM_MLP, name)
        result[name] = array[:, :, 0, 0] if pointwise else array
    if not has_final_norm(arrays):
        last = f"stages.{len(depths_of(result, TIMM_BLOCK)) - 1}.blocks.0.conv_dw.bias"
        width = shape_of(result, last, 1)[0]
        result |= {"head.norm.weight": np.ones(width, np.float32), "head.norm.bias": np.zeros(width, np.float32)}
    return result


def timm_written(module: ConvNeXt, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays as timm keeps them: in its small models the MLP's kernels are convolutions by 1x1."""
    if not timm_architecture(module)[1]:
        return dict(arrays)
    return {name: array[:, :, None, None] if re.match(TIMM_MLP, name) else array for name, array in arrays.items()}


def has_final_norm(arrays: Arrays) -> bool:
    """Returns whether a file holds the final norm, or the head that would need it."""
    named = [f"{norm}.{part}" for norm in FINAL_NORMS for part in ("weight", "bias")]
    return any(name in arrays for name in (*named, "head.fc.weight", "head.weight"))


def timm_notes(arrays: Arrays) -> list[str]:
    """Returns what is added to a file."""
    if has_final_norm(arrays):
        return []
    return ["the file holds neither a final norm nor a head, as of masked pre-training: the norm is new"]


def timm_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or timm's model is computed otherwise than any here.
    """
    arguments = TOLD_BY_ARCHITECTURE.get(str(config.get("architecture")), {}) | dict(config.get("model_args") or {})
    agreed(arguments, output_stride=(32,), global_pool=("avg",), norm_layer=(None, "layernorm", "layernorm2d"))
    agreed(config, global_pool=("avg",))
    fields, epsilon = shapes_of(arrays, TIMM_NAMES), float(arguments.get("norm_eps") or 1e-6)
    if fields["patch_size"] > LARGEST_PATCH:
        raise UserError(f"timm dilates the convolutions of a ConvNeXt with patches of {fields['patch_size']} pixels")
    scaled = f"{TIMM_NAMES['block'].format(0, 0)}.{TIMM_NAMES['scale']}" in arrays
    return {
        **fields,
        "gelu": gelu_of(arguments, swiglu=False),
        "layer_scale": float(arguments.get("ls_init_value") or 1e-6) if scaled else None,
        "pool_norm": "norm_pre.weight" not in arrays,
        "norm_epsilon": epsilon,
        "final_norm_epsilon": epsilon,
        "num_classes": outputs_of(arrays, "head.fc.weight", "head.fc.bias"),
    }


def timm_table(module: ConvNeXt) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = list(entries_of(module, TIMM_NAMES))
    table += norm_entries("head.norm" if module.pool_norm else "norm_pre", "norm")
    return table + (list(linear_entries("head.fc", "head")) if module.num_classes else [])


def timm_architecture(module: ConvNeXt) -> tuple[str, bool]:
    """Returns the name of timm's that makes the model, and whether its MLPs are stored as convolutions."""
    # Only the second version's are made without LayerScale: an argument of None would leave what the name has.
    version = "convnextv2" if module.grn or module.layer_scale is None else "convnext"
    size, depths = CONVOLUTIONAL.get(module.widths[0], ("", ()))
    doubled = module.widths == tuple(module.widths[0] * 2**i for i in range(4))
    small = doubled and module.depths == depths
    return f"{version}_{size if small else 'tiny'}", small


def timm_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` as timm writes it for the hub.

    Raises:
      UserError: timm has no such ConvNeXt.
    """
    module = weights.module
    if len(module.depths) != 4:
        raise UserError(f"the timm format has ConvNeXts of 4 stages, not {len(module.depths)}")
    if module.downsample_first != (module.patch_size == 2):
        raise UserError("the timm format halves the map in the first stage too with patches of 2 pixels, only then")
    if module.patch_size > LARGEST_PATCH:
        raise UserError(f"the timm format has ConvNeXts of patches up to {LARGEST_PATCH} pixels")
    if module.final_norm_epsilon != module.norm_epsilon:
        raise UserError(
            f"the timm format has one epsilon for all norms, not {module.norm_epsilon} and at the end "
            f"{module.final_norm_epsilon}; --model.final_norm_epsilon={module.norm_epsilon} writes it all the same, as "
            "another model"
        )
    architecture, convolutional = timm_architecture(module)
    arguments = {
        "depths": list(module.depths),
        "dims": list(module.widths),
        "kernel_sizes": module.kernel_size,
        "patch_size": module.patch_size,
        "ls_init_value": module.layer_scale,
        "use_grn": module.grn,
        "conv_mlp": convolutional,
        "act_layer": "gelu_tanh" if module.gelu == "tanh" else "gelu",
        "norm_eps": module.norm_epsilon,
        "head_norm_first": not module.pool_norm,
    }
    return hub_document(weights, architecture, arguments, module.widths[-1], "stem.0", "head.fc")


TIMM = Layout(
    kind=timm.KIND,
    model=ConvNeXt,
    recognises=lambda arrays: bool({"stages.0.blocks.0.conv_dw.weight", "stages.0.0.dwconv.weight"} & arrays.keys()),
    fields=timm_fields,
    table=timm_table,
    trunk=r"^(stem|stages|norm_pre|head\.(norm|pre_logits))",
    size=lambda module: (module.stride, module.stride),
    preprocessing=timm_preprocessing,
    stated_size=stated_size,
    stated_names=lambda config, classes: stated_names(config),
    config=timm_config,
    renamed=timm_renamed,
    written=timm_written,
    notes=timm_notes,
)

HUGGINGFACE_NAMES = {
    "patches": "embeddings.patch_embeddings",
    "patches_norm": "embeddings.layernorm",
    "downsample": "encoder.stages.{}.downsampling_layer",
    "block": "encoder.stages.{}.layers.{}",
    "conv": "dwconv",
    "norm": "layernorm",
    "mlp": "pwconv",
    "grn": "grn",
    "scale": "layer_scale_parameter",
}
PREFIX = r"^convnext(v2)?\."
"""What names of the trunk begin with below a classifier."""


def huggingface_renamed(arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of the bare model."""
    return {re.sub(PREFIX, "", name): array for name, array in arrays.items()}


def huggingface_written(module: ConvNeXt, arrays: Arrays) -> dict[str, np.ndarray]:
    """Returns arrays under the names of a model with a classifier, if there is one, V2's responses over the map."""
    prefix, result = "" if not module.num_classes else "convnextv2." if module.grn else "convnext.", {}
    for name, array in arrays.items():
        name = name if name.startswith("classifier.") else prefix + name
        result[name] = array.reshape(1, 1, 1, -1) if ".grn." in name else array
    return result


def huggingface_fields(arrays: Arrays, config: Document) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`.

    Raises:
      UserError: an array is missing, or the library's model is computed otherwise than any here.
    """
    agreed(config, model_type=("convnext", "convnextv2"), hidden_act=tuple(GELU))
    scaled = f"{HUGGINGFACE_NAMES['block'].format(0, 0)}.{HUGGINGFACE_NAMES['scale']}" in arrays
    return {
        **shapes_of(arrays, HUGGINGFACE_NAMES),
        "gelu": GELU[str(config.get("hidden_act", "gelu"))],
        "layer_scale": float(config.get("layer_scale_init_value") or 1e-6) if scaled else None,
        "final_norm_epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "num_classes": outputs_of(arrays, "classifier.weight", "classifier.bias"),
    }


def huggingface_table(module: ConvNeXt) -> list[Entry]:
    """Returns the names of a model's arrays."""
    table = [*entries_of(module, HUGGINGFACE_NAMES), *norm_entries("layernorm", "norm")]
    return table + (list(linear_entries("classifier", "head")) if module.num_classes else [])


def huggingface_config(weights: Weights) -> dict[str, object]:
    """Returns `config.json` of a ConvNeXt or a ConvNeXt V2.

    Raises:
      UserError: Hugging Face has no such ConvNeXt.
    """
    module = weights.module
    if module.grn and module.layer_scale is not None:
        raise UserError("the Hugging Face format has ConvNeXts with a layer scale or with global response norms")
    size = list(weights.image_size or weights.preprocessing.size)
    fields = {
        "depths": list(module.depths),
        "hidden_sizes": list(module.widths),
        "num_stages": len(module.depths),
        "patch_size": module.patch_size,
        "hidden_act": "gelu" if module.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": module.final_norm_epsilon,
        "image_size": size[0] if size[0] == size[1] else size,
    }
    if not module.grn:
        fields["layer_scale_init_value"] = module.layer_scale or 0.0
    return huggingface_document(weights, "ConvNextV2" if module.grn else "ConvNext", fields)


HUGGINGFACE = Layout(
    kind=huggingface.KIND,
    model=ConvNeXt,
    recognises=lambda arrays: "encoder.stages.0.layers.0.dwconv.weight" in huggingface_renamed(arrays),
    fields=huggingface_fields,
    table=huggingface_table,
    trunk=r"^(embeddings|encoder|layernorm)",
    size=lambda module: (module.stride, module.stride),
    preprocessing=huggingface_preprocessing,
    stated_size=huggingface_size,
    stated_names=stated_classes,
    config=huggingface_config,
    preprocessor=huggingface.preprocessing_config,
    renamed=huggingface_renamed,
    written=huggingface_written,
    allowed={"norm_epsilon": (1e-6,), "kernel_size": (7,), "pool_norm": (True,), "downsample_first": (False,)},
)
