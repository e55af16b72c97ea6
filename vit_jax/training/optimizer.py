"""Optimizers from the config: AdamW, SGD with momentum, Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from vit_jax.config import default_config
from vit_jax.duration import Clock
from vit_jax.errors import UserError
from vit_jax.training.schedule import make_schedule


def path_name(path: tuple) -> str:
    """Returns `encoder/block_0/mlp/dense_0/kernel` for a key path."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", part))) for part in path)


def kernels(params) -> dict:
    """Returns a tree of bool: True on kernels, which alone are decayed; biases, norms, tokens and positions are not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path).endswith("kernel"), params)


USED_KEYS = {
    "adamw": ("betas", "eps"),
    "sgd": ("momentum",),
    "muon": ("momentum", "betas", "eps", "adam_lr"),
}
"""What each optimizer takes beside lr, weight_decay and momentum_dtype; other keys may not be set."""


def make_optimizer(config: ConfigDict, clock: Clock) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the transformation of a whole config, clipping included, and the schedule of its learning rate.

    Weight decay is optax's: multiplied by the learning rate. Gradients are clipped by their global norm before all
    else (as in Google's recipes), after micro-batches have been averaged.

    Raises:
      UserError: the optimizer or the schedule is unknown.
    """
    opt = config.optimizer
    if opt.name not in USED_KEYS:
        raise UserError(f"optimizer.name must be {', '.join(USED_KEYS)}, not {opt.name!r}")
    for key, default in default_config().optimizer.items():
        if key not in ("name", "lr", "weight_decay", "momentum_dtype", *USED_KEYS[opt.name]) and opt[key] != default:
            raise UserError(f"optimizer.{key} is set to {opt[key]!r}, but optimizer {opt.name!r} has no such thing")
    schedule = make_schedule(config.schedule, opt.lr, clock)
    if opt.momentum_dtype not in ("float32", "bfloat16"):
        raise UserError(f"optimizer.momentum_dtype must be float32 or bfloat16, not {opt.momentum_dtype!r}")
    first_moment = jnp.dtype(opt.momentum_dtype)
    if opt.name == "adamw":
        update = optax.adamw(
            schedule, *opt.betas, opt.eps, mu_dtype=first_moment, weight_decay=opt.weight_decay, mask=kernels
        )
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
    return (optax.chain(optax.clip_by_global_norm(clip), update) if clip else update), schedule


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
        inputs = leaf.ndim - 1 if name.endswith("out/kernel") else 1
        return MuonDimensionNumbers(tuple(range(inputs)), tuple(range(inputs, leaf.ndim)))

    return jax.tree_util.tree_map_with_path(axes, params)


def parameter_count(params) -> int:
    """Returns the number of scalars in a tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
