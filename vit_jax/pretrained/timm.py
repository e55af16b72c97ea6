"""timm's `.safetensors`: Vision Transformers, DeiT with and without distillation; DINOv2's own names are understood.

Names and shapes tell most of a model. What they do not (heads, activation, epsilon, preprocessing) `config.json` beside
the file tells, as timm writes it for the hub; without one it is taken to be as usual, and the heads are noted.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.deit import DistilledVisionTransformer
from vit_jax.models.vit import VisionTransformer
from vit_jax.pretrained.files import understood
from vit_jax.pretrained.google import outputs_of, shape_of
from vit_jax.pretrained.names import Convolution, Entry, Flat, Packed, Transposed, entry, read, write
from vit_jax.pretrained.timm_config import (
    gelu_of,
    hub_config,
    pool_of,
    stated_names,
    stated_preprocessing,
    stated_size,
    told_by_architecture,
)
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
)

KIND = "timm"

HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
"""Number of heads of the published widths: the files store query, key and value packed and do not tell it."""

TRUNK = r"^(blocks|patch_embed|norm|fc_norm|pos_embed|cls_token|reg_token|dist_token|attn_pool)"
"""Names that must all be known."""

UNUSED = {
    r"^mask_token$": "replaces masked patches in pre-training",
    r"^(dino_head|ibot_head|decoder)": "a head of the pre-training",
}

OTHER_NAMES = (
    (r"^register_tokens$", "reg_token"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
"""Names of DINOv2's and DeiT-III's own files, and timm's for the same."""

QKV = ("query", "key", "value")


def norm_entries(theirs: str, ours: str) -> Iterator[Entry]:
    """Yields the entries of a layer norm."""
    yield entry(f"{theirs}.weight", f"{ours}/scale")
    yield entry(f"{theirs}.bias", f"{ours}/bias")


def linear_entries(theirs: str, ours: str, in_axes: int = 1, bias: bool = True) -> Iterator[Entry]:
    """Yields the entries of a linear layer whose inputs are the first `in_axes` axes of our kernel."""
    yield entry(f"{theirs}.weight", f"{ours}/kernel", Transposed(in_axes))
    if bias:
        yield entry(f"{theirs}.bias", f"{ours}/bias", Flat())


def packed_entries(theirs: str, ours: list[str], bias: bool = True) -> Iterator[Entry]:
    """Yields the entries of a linear layer that computes several of ours at once."""
    yield entry(f"{theirs}.weight", [f"{name}/kernel" for name in ours], Packed(Transposed()))
    if bias:
        yield entry(f"{theirs}.bias", [f"{name}/bias" for name in ours], Packed(Flat()))


def block_entries(module: VisionTransformer, theirs: str, ours: str) -> Iterator[Entry]:
    """Yields the entries of one encoder block."""
    yield from norm_entries(f"{theirs}.norm1", f"{ours}/norm_0")
    yield from packed_entries(f"{theirs}.attn.qkv", [f"{ours}/attention/{part}" for part in QKV], module.qkv_bias)
    yield from linear_entries(f"{theirs}.attn.proj", f"{ours}/attention/out", in_axes=2)
    if module.qk_norm:
        yield from norm_entries(f"{theirs}.attn.q_norm", f"{ours}/attention/query_norm")
        yield from norm_entries(f"{theirs}.attn.k_norm", f"{ours}/attention/key_norm")
    yield from norm_entries(f"{theirs}.norm2", f"{ours}/norm_1")
    if module.mlp == "swiglu":
        yield from packed_entries(f"{theirs}.mlp.fc1", [f"{ours}/mlp/gate", f"{ours}/mlp/dense_0"])
    else:
        yield from linear_entries(f"{theirs}.mlp.fc1", f"{ours}/mlp/dense_0")
    yield from linear_entries(f"{theirs}.mlp.fc2", f"{ours}/mlp/dense_1")
    if module.layer_scale is not None:
        for i in (0, 1):
            yield entry(f"{theirs}.ls{i + 1}.gamma", f"{ours}/layer_scale_{i}/gamma")


def table_of(module: VisionTransformer) -> list[Entry]:
    """Returns the table of a Vision Transformer or a distilled one."""
    table = [entry("patch_embed.proj.weight", "patch_embed/kernel", Convolution())]
    if module.pre_norm:
        table += norm_entries("norm_pre", "pre_norm")
    else:
        table.append(entry("patch_embed.proj.bias", "patch_embed/bias"))
    table += [entry(f"{token}_token", token) for token in module.class_token_names]
    if module.registers:
        table.append(entry("reg_token", "registers"))
    if module.position != "none":
        table.append(entry("pos_embed", "position_embed/embedding"))
    for i in range(module.depth):
        table += block_entries(module, f"blocks.{i}", f"encoder/block_{i}")
    table += norm_entries("fc_norm" if module.pool_norm else "norm", "norm")
    if module.pool == "map":
        pool = "map_pool/attention"
        table.append(entry("attn_pool.latent", "map_pool/probe"))
        table += linear_entries("attn_pool.q", f"{pool}/query")
        table += packed_entries("attn_pool.kv", [f"{pool}/key", f"{pool}/value"])
        table += linear_entries("attn_pool.proj", f"{pool}/out", in_axes=2)
        table += norm_entries("attn_pool.norm", "map_pool/norm")
        table += linear_entries("attn_pool.mlp.fc1", "map_pool/mlp/dense_0")
        table += linear_entries("attn_pool.mlp.fc2", "map_pool/mlp/dense_1")
    if module.num_classes:
        heads = ("head", "head_dist") if isinstance(module, DistilledVisionTransformer) else ("head",)
        for head in heads:
            table += linear_entries(head, head)
    return table


def recognises(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays are named as timm's Vision Transformers are."""
    return "patch_embed.proj.weight" in arrays and "blocks.0.attn.qkv.weight" in renamed(arrays)


def renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays under timm's names."""
    result = {}
    for name, array in arrays.items():
        for pattern, replacement in OTHER_NAMES:
            name = re.sub(pattern, replacement, name)
        result[name] = array
    return result


def read_weights(
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, object],
    source: str,
    image_size: tuple[int, int] | None = None,
    **overrides,
) -> Weights:
    """Returns the weights of a timm file.

    Args:
      config: `config.json` from beside it, or empty.
      image_size: that the positions were learned for, where the caller knows it.
      overrides: model fields that the caller knows better.

    Raises:
      UserError: an array is missing or does not fit, or nothing tells the number of heads.
    """
    arrays = renamed(arrays)
    fields = model_fields(arrays, config, overrides)
    image_size = image_size or stated_size(config)
    sure = overrides.get("heads") or "blocks.0.attn.q_norm.weight" in arrays
    notes, prefix = assumed(config, None if sure else fields["heads"]), 0
    if "pos_embed" in arrays:
        patches = image_size and (image_size[0] // fields["patch_size"][0] * (image_size[1] // fields["patch_size"][1]))
        prefix, guess = position_prefix(arrays, patches)
        notes += [guess] if guess else []
        arrays = with_positions_of(arrays, prefix)
        fields["cls_position"] = prefix > 0 or not leading_tokens(arrays)
    model = DistilledVisionTransformer if "dist_token" in arrays else VisionTransformer
    name, fields, module = adapted(model, fields, overrides)
    tokens = arrays["pos_embed"].shape[1] - (prefix and leading_tokens(arrays)) if "pos_embed" in arrays else None
    if image_size is None and tokens and square_grid(tokens):
        image_size = nominal_size(module, tokens)
    shapes = parameter_shapes(module, image_size or nominal_size(module, tokens or 1))
    found, unknown = read(table_of(module), arrays, shapes, source)
    unused = judged(unknown, UNUSED, TRUNK, source)
    preprocessing = stated_preprocessing(config, image_size or (224, 224))
    return make_weights(
        name,
        fields,
        found,
        image_size,
        preprocessing,
        source,
        stated_names(config),
        position_resize="bicubic",
        unused=unused,
        notes=notes,
    )


def model_fields(
    arrays: Mapping[str, np.ndarray], config: Mapping[str, object], overrides: Mapping[str, object]
) -> dict[str, object]:
    """Returns the model's fields, told from names, shapes and `config.json`."""
    width, _, height, breadth = shape_of(arrays, "patch_embed.proj.weight", 4)
    with understood("config.json"):
        arguments = dict(config.get("model_args") or {})
    hidden, hidden_in = (
        shape_of(arrays, "blocks.0.mlp.fc1.weight", 2)[0],
        shape_of(arrays, "blocks.0.mlp.fc2.weight", 2)[1],
    )
    cls, pool_norm = "cls_token" in arrays, "fc_norm.weight" in arrays
    pool = "map" if "attn_pool.latent" in arrays else "cls" if cls and not pool_norm else "gap"
    with understood("config.json"):
        told = told_by_architecture(config)
        pool = pool_of(config) or pool
    return {
        "patch_size": (height, breadth),
        "width": width,
        "depth": depth_of(arrays, r"blocks\.(\d+)\."),
        "heads": overrides.get("heads") or heads_of(arrays, arguments, width),
        "mlp": "swiglu" if hidden == 2 * hidden_in else "gelu",
        "mlp_dim": hidden_in,
        "gelu": gelu_of(arguments, swiglu=hidden == 2 * hidden_in),
        "pool": pool,
        "cls_token": cls and pool != "cls" and "dist_token" not in arrays,
        "pool_norm": pool_norm,
        "pre_norm": "norm_pre.weight" in arrays,
        "registers": shape_of(arrays, "reg_token", 3)[1] if "reg_token" in arrays else 0,
        "position": "learned" if "pos_embed" in arrays else "none",
        "qk_norm": "blocks.0.attn.q_norm.weight" in arrays,
        "qkv_bias": "blocks.0.attn.qkv.bias" in arrays,
        "layer_scale": float(arguments.get("init_values") or 1e-5) if "blocks.0.ls1.gamma" in arrays else None,
        "num_classes": outputs_of(arrays, "head.weight", "head.bias"),
        **{field: value for field, value in told.items() if field not in ("heads", "gelu") or field not in arguments},
    }


@understood("config.json")
def heads_of(arrays: Mapping[str, np.ndarray], arguments: Mapping[str, object], width: int) -> int:
    """Returns the number of heads.

    Raises:
      UserError: nothing tells it.
    """
    if arguments.get("num_heads"):
        return int(arguments["num_heads"])
    if "blocks.0.attn.q_norm.weight" in arrays:
        head_dim = arrays["blocks.0.attn.q_norm.weight"].size
        if width % head_dim == 0 and head_dim < width:
            return width // head_dim
    if width not in HEADS:
        raise UserError(f"the file does not tell the number of heads of its {width} channels; give it: heads=N")
    return HEADS[width]


def leading_tokens(arrays: Mapping[str, np.ndarray]) -> int:
    """Returns how many class tokens stand before registers and patches."""
    return ("cls_token" in arrays) + ("dist_token" in arrays)


SMALLEST_KNOWN_GRID = 10
"""Side of the smallest grid of published models whose cls token has no position (DeiT-III 14, FlexiViT 15)."""


def position_prefix(arrays: Mapping[str, np.ndarray], patches: int | None) -> tuple[int, str | None]:
    """Returns how many rows of the positions belong to tokens before the patches, and what was assumed for it.

    Args:
      patches: their number, where it is known.

    Raises:
      UserError: the number of rows fits no image of that many patches.
    """
    rows = shape_of(arrays, "pos_embed", 3)[1]
    leading = leading_tokens(arrays)
    registers = arrays["reg_token"].shape[1] if "reg_token" in arrays else 0
    choices = list(dict.fromkeys([leading, leading + registers, 0]))
    if patches is not None:
        fitting = [choice for choice in choices if rows - choice == patches]
        if not fitting:
            raise UserError(f"pos_embed has {rows} rows, which is not that of {patches} patches")
        return fitting[0], None
    square = [choice for choice in choices if rows > choice and square_grid(rows - choice)]
    if len(choices) == 1:
        return leading, None
    if len(square) == 1 and (square[0] or registers or rows >= SMALLEST_KNOWN_GRID**2):
        return square[0], None
    return leading, (
        f"{rows} positions: taken to be those of {leading} class tokens and {rows - leading} patches; "
        "image_size=(height, width) settles it"
    )


def with_positions_of(arrays: Mapping[str, np.ndarray], prefix: int) -> dict[str, np.ndarray]:
    """Returns arrays in which positions of registers have been added to the registers, as ours have none."""
    leading = leading_tokens(arrays)
    if prefix <= leading:
        return dict(arrays)
    positions = np.asarray(arrays["pos_embed"], np.float32)
    registers = np.asarray(arrays["reg_token"], np.float32) + positions[:, leading:prefix]
    kept = np.concatenate([positions[:, :leading], positions[:, prefix:]], axis=1)
    return {**arrays, "pos_embed": kept, "reg_token": registers}


def write_weights(weights: Weights) -> tuple[dict[str, np.ndarray], dict, list[str]]:
    """Returns the arrays and the `config.json` of a timm folder, and what a person should know of them.

    Raises:
      UserError: the format cannot express the model.
    """
    module = weights.module
    distilled, swiglu = isinstance(module, DistilledVisionTransformer), getattr(module, "mlp", None) == "swiglu"
    expressible(
        module,
        KIND,
        models=(VisionTransformer, DistilledVisionTransformer),
        patch_embed=("linear",),
        pool=("cls", "gap") if swiglu else ("cls", "gap", "map"),
        position=("learned", "none", "sincos2d"),
        pre_logits=(None,),
        head=("linear",),
        mlp=("gelu",) if distilled else ("gelu", "swiglu"),
        norm_epsilon=(1e-6,),
        dist_classifier=(True,),
        **({"registers": (0,)} if distilled else {}),
    )
    needed = distilled or module.position == "sincos2d"
    params, notes = with_positions(weights, KIND) if needed else (weights.params, [])
    return write(table_of(module), with_register_positions(module, params), KIND), hub_config(weights), notes


def with_register_positions(module: VisionTransformer, params: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns parameters in which registers have positions, of zeros, where the class tokens have some: timm gives
    positions to both or to neither.
    """
    name, leading = "position_embed/embedding", len(module.class_token_names)
    positioned = module.cls_position or module.position == "sincos2d"
    if not (module.registers and leading and positioned and name in params):
        return params
    zeros = np.zeros((1, module.registers, module.width), np.float32)
    return {**params, name: np.concatenate([params[name][:, :leading], zeros, params[name][:, leading:]], axis=1)}
