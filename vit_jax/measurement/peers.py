"""What a comparison with plain implementations takes: a plain ViT, trained by a plain step."""

import dataclasses

from vit_jax.config import default_config
from vit_jax.config_fill import fill_augment
from vit_jax.errors import UserError
from vit_jax.measurement.cases import Case, model_field, value_name
from vit_jax.models.registry import architecture
from vit_jax.models.vit import VisionTransformer

PEERS = ("linen", "timm", "timm_compiled")

SIZE_FIELDS = ("num_classes", "patch_size", "width", "depth", "heads", "mlp_dim")
FREE_FIELDS = ("gelu", "head_bias", "norm_epsilon", "remat", "scan_layers", "attention_kernel", "fused_qkv", "dtype")
"""Fields that a peer follows, or has its own way with, or that cost nothing."""

PEER_AXES = ("model", "batch_size", "image_size", "dtype", "depth")
"""Axes along which a peer is another program; along the others it is measured once."""

PLAIN_STEP = (
    "augment.flip",
    "augment.erasing",
    "augment.cutout",
    "augment.mixup",
    "augment.cutmix",
    "train.accumulate",
    "train.loss",
    "train.clip_norm",
    "train.ema_decay",
    "train.class_mean",
    "train.label_threshold",
    "train.label_smoothing",
    "train.class_weights",
    "optimizer.layer_decay",
    "optimizer.frozen",
    "optimizer.momentum_dtype",
    "lora.rank",
)
"""Config keys that a peer's step knows nothing of."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A plain ViT's.

    Attributes:
      image: side of the square images in pixels.
      patch: side of a square patch.
    """

    classes: int
    image: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int


def peer_cases(cases: list[Case]) -> list[Case]:
    """Returns the cases that are different programs to a peer, named by the axes along which it is another."""
    several = [axis for axis in PEER_AXES if len({case.settings.get(axis) for case in cases}) > 1]
    first = {}
    for case in cases:
        name = " ".join(value_name(axis, case.settings[axis]) for axis in several)
        first.setdefault(name, dataclasses.replace(case, name=name))
    return list(first.values())


def peer_sizes(case: Case, mode: str) -> Sizes:
    """Returns the sizes of a case's ViT.

    Raises:
      UserError: its model is no plain ViT with a cls token, or its training step does more than a peer's.
    """
    config = case.config
    if architecture(config.model.name).module is not VisionTransformer:
        raise UserError(f"--against compares plain ViTs; {config.model.name} is another architecture")
    for field in dataclasses.fields(VisionTransformer):
        if field.name in (*SIZE_FIELDS, *FREE_FIELDS, "parent", "name"):
            continue
        value = model_field(config, field.name)
        if value != field.default:
            raise UserError(f"--against compares plain ViTs; model.{field.name} is {value!r}, not {field.default!r}")
    rows, columns = model_field(config, "patch_size")
    if rows != columns:
        raise UserError(f"--against compares ViTs with square patches, not {rows}x{columns}")
    if mode == "train":
        require_plain_step(config)
    others = (model_field(config, name) for name in ("width", "depth", "heads", "mlp_dim"))
    return Sizes(model_field(config, "num_classes"), config.data.image_size, rows, *others)


def require_plain_step(config) -> None:
    """Raises a `UserError` where the training step does what a peer's does not."""
    plain = default_config()
    fill_augment(plain)
    for key in PLAIN_STEP:
        group, name = key.split(".")
        if config[group][name] != plain[group][name]:
            raise UserError(f"--against compares plain training steps; {key} is {config[group][name]!r}")
    if config.optimizer.name not in ("adamw", "sgd"):
        raise UserError(f"--against compares steps of adamw or sgd, not {config.optimizer.name}")
