"""LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning"): Adam whose steps are as long as the weights."""

from collections.abc import Callable

import optax
from jax.typing import DTypeLike


def lamb(
    schedule: optax.Schedule,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    adapted: Callable[[optax.Params], dict],
    mu_dtype: DTypeLike,
) -> optax.GradientTransformation:
    """Returns the transformation of algorithm 2: Adam's direction, plus the decay, times |weights| / |direction|.

    Only parameters that are decayed have their steps adapted, as in NVIDIA's and timm's LAMB, by which DeiT-III and
    "ResNet strikes back" were trained; the others take Adam's. (`optax.lamb` adapts all.) The ratio is 1 where either
    norm is 0, as at the first step of a head of zeros. Queries, keys and values are adapted each by itself, where timm
    has them in one array.

    Args:
      schedule: the learning rate by step.
      adapted: from parameters to a tree of bool: which of them are decayed, and have their steps adapted.
      mu_dtype: storage of the first moment.
    """
    return optax.chain(
        optax.scale_by_adam(*betas, eps, mu_dtype=mu_dtype),
        optax.add_decayed_weights(weight_decay, adapted),
        optax.masked(optax.scale_by_trust_ratio(), adapted),
        optax.scale_by_learning_rate(schedule),
    )
