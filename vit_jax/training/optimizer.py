"""Optimizers from the config: AdamW, LAMB, SGD with momentum, Muon; and the learning rate of each layer."""

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from vit_jax.config import default_config
from vit_jax.duration import Clock
from vit_jax.errors import UserError
from vit_jax.training.lamb import lamb
from vit_jax.training.schedule import make_schedule


def path_name(path: tuple) -> str:
    """Returns `encoder/block_0/mlp/dense_0/kernel` for a key path."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def kernels(params) -> dict:
    """Returns a tree of bool: True on kernels, which alone are decayed; biases, norms, tokens and positions are not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), params)


COMMON_KEYS = ("name", "lr", "weight_decay", "layer_decay", "frozen", "momentum_dtype")
USED_KEYS = {
    "adamw": ("betas", "eps"),
    "lamb": ("betas", "eps"),
    "sgd": ("momentum",),
    "muon": ("momentum", "betas", "eps", "adam_lr"),
}
"""What each optimizer takes beside what all take; other keys may not be set."""


def make_optimizer(
    config: ConfigDict, clock: Clock, params: dict | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the transformation of a whole config, clipping included, and the schedule of its learning rate.

    Weight decay is optax's: multiplied by the learning rate. Gradients are clipped by their global norm before all
    else (as in Google's recipes), after micro-batches have been averaged. It takes the parameters that are trained;
    of those that are frozen it is told nothing.

    Args:
      params: all parameters, also those that are frozen, maybe abstract; `layer_decay` counts the layers in them.

    Raises:
      UserError: the optimizer or the schedule is unknown.
      ValueError: there is a layer decay, but no parameters to count.
    """
    opt = config.optimizer
    if opt.name not in USED_KEYS:
        raise UserError(f"optimizer.name must be {', '.join(USED_KEYS)}, not {opt.name!r}")
    for key, default in default_config().optimizer.items():
        if key not in (*COMMON_KEYS, *USED_KEYS[opt.name]) and opt[key] != default:
            raise UserError(f"optimizer.{key} is set to {opt[key]!r}, but optimizer {opt.name!r} has no such thing")
    schedule = make_schedule(config.schedule, opt.lr, clock)
    if opt.momentum_dtype not in ("float32", "bfloat16"):
        raise UserError(f"optimizer.momentum_dtype must be float32 or bfloat16, not {opt.momentum_dtype!r}")
    first_moment = jnp.dtype(opt.momentum_dtype)
    if opt.name == "adamw":
        update = optax.adamw(
            schedule, *opt.betas, opt.eps, mu_dtype=first_moment, weight_decay=opt.weight_decay, mask=kernels
        )
    elif opt.name == "lamb":
        update = lamb(schedule, opt.betas, opt.eps, opt.weight_decay, kernels, first_moment)
    elif opt.name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(opt.weight_decay, kernels) if opt.weight_decay else optax.identity(),
            optax.sgd(schedule, opt.momentum or None, accumulator_dtype=first_moment),
        )
    else:
        update = muon(
            schedule,
            beta=opt.momentum,
            eps=opt.eps,
            weight_decay=opt.weight_decay,
            mu_dtype=first_moment,
            adam_b1=opt.betas[0],
            adam_b2=opt.betas[1],
            adam_weight_decay=0.0,
            adam_learning_rate=make_schedule(config.schedule, opt.lr if opt.adam_lr is None else opt.adam_lr, clock),
            muon_weight_dimension_numbers=encoder_matrices,
        )
    clip = config.train.clip_norm
    parts = [optax.clip_by_global_norm(clip)] * bool(clip) + [update]
    if opt.layer_decay is not None:
        if params is None:
            raise ValueError("optimizer.layer_decay needs the parameters, whose layers it counts")
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        parts.append(scaled_by_name(layer_factors(names, opt.layer_decay)))
    return (optax.chain(*parts) if len(parts) > 1 else update), schedule


BLOCK = re.compile(r"(.*/)?block_\d+(?=/)")
STAGE = re.compile(r"(.*/)?stage_\d+(?=/)")
AFTER_BLOCKS = re.compile(r"(norm|map_pool|sequence_pool|pre_logits|head\w*)(/|$)")
"""What comes after the last block; whatever else is in no block comes before the first."""


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Returns what the update of each parameter is multiplied by: decay^(depth + 1 - layer), 1 at the head.

    Layer-wise learning-rate decay, as BEiT (Bao et al. 2022, appendix) and MAE (He et al. 2022) fine-tune: patch
    embedding, tokens and positions are layer 0, blocks are layers 1 to depth, norm, pooling and head layer depth + 1. A
    block is whatever is called `…/block_<i>/…`; of several stacks, the first in natural order comes first. What a stage
    does before its blocks belongs to the first of them, a LoRA factor to the layer of its kernel.
    """
    kernels_of = {name: name.removeprefix("lora/") for name in names}
    inside = {name: match[0] for name, kernel in kernels_of.items() if (match := BLOCK.match(kernel))}
    blocks = sorted(set(inside.values()), key=natural)
    layers = {block: layer for layer, block in enumerate(blocks, 1)}
    firsts = {match[0]: layers[block] for block in reversed(blocks) if (match := STAGE.match(block))}

    def layer_of(name: str, kernel: str) -> int:
        if name in inside:
            return layers[inside[name]]
        if match := STAGE.match(kernel):
            return firsts.get(match[0], 0)
        return len(blocks) + 1 if AFTER_BLOCKS.match(kernel) else 0

    layer_of = {name: layer_of(name, kernel) for name, kernel in kernels_of.items()}
    return {name: decay ** (len(blocks) + 1 - layer) for name, layer in layer_of.items()}


def natural(name: str) -> list[str | int]:
    """Returns a key that sorts numbers in names as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def scaled_by_name(factors: dict[str, float]) -> optax.GradientTransformation:
    """Returns the transformation that multiplies each update by the factor of its parameter's name.

    As the last of a chain it scales what is added to the parameters, weight decay included, whatever the optimizer.
    """
    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(
            lambda path, update: update * factors[path_name(path)], updates
        )
    )


def encoder_matrices(params) -> dict:
    """Returns which axes of each hidden kernel are its inputs and outputs, and None for what NAdamW updates.

    Muon (Jordan et al. 2024) is for hidden matrices: the patch embedding, the head, biases, norms, tokens and
    positions are left to NAdamW. Projections to heads are `[width, heads, head_dim]`, from heads
    `[heads, head_dim, width]`; each is orthogonalised as the whole matrix that it stands for.
    """

    def axes(path, leaf):
        name = path_name(path)
        if not name.startswith("encoder/") or not name.endswith("kernel"):
            return None
        inputs = input_axes(name, leaf.ndim)
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))

    return jax.tree_util.tree_map_with_path(axes, params)


def input_axes(name: str, ndim: int) -> int:
    """Returns how many leading axes of a kernel are its inputs; the others are its outputs.

    Projections to heads are `[width, heads, head_dim]`; all others end with their one axis of outputs, such as
    `[heads, head_dim, width]` and a convolution's `[rows, columns, inputs, outputs]`.
    """
    return 1 if re.search(r"(query|key|value)/kernel$", name) else ndim - 1


def parameter_count(params) -> int:
    """Returns the number of scalars in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
