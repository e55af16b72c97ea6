"""Attention rollout (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3)."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.errors import UserError

FUSIONS = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}
"""What makes one matrix of those of all heads; the paper takes the mean."""


def rollout(
    maps: Sequence[Float[Array, "batch heads tokens tokens"]], fusion: str = "mean", discard_ratio: float = 0.0
) -> Float[Array, "layers batch tokens tokens"]:
    """Returns how much each token (a row) draws on each input token (a column) after each layer; rows sum to 1.

    The last entry is the rollout through all layers, by its definition the product of all `with_residual(fused)`
    matrices, that of the first layer rightmost.

    Args:
      maps: the attention weights of the layers, first to last.
      fusion: of the heads: `mean`, `max` or `min`.
      discard_ratio: the share of an image's fused weights of a layer, the smallest, that count as zero (not in the
        paper, which discards none; see `discarded`).

    Raises:
      UserError: there is no such fusion, or the ratio is not in [0, 1).
    """
    total, found = None, []
    for weights in maps:
        step = with_residual(discarded(fused(weights, fusion), discard_ratio))
        total = step if total is None else step @ total
        found.append(total)
    return jnp.stack(found)


def fused(
    weights: Float[Array, "batch heads queries keys"], fusion: str = "mean"
) -> Float[Array, "batch queries keys"]:
    """Returns one matrix for all heads.

    Raises:
      UserError: there is no such fusion.
    """
    if fusion not in FUSIONS:
        raise UserError(f"heads are fused by {', '.join(FUSIONS)}, not {fusion!r}")
    return FUSIONS[fusion](jnp.asarray(weights), axis=1)


def with_residual(weights: Float[Array, "batch tokens tokens"]) -> Float[Array, "batch tokens tokens"]:
    """Returns (A + I) / 2, its rows scaled to a sum of 1: half of a token comes along the residual stream (eq. 1)."""
    mixed = (weights + jnp.eye(weights.shape[-1])) / 2
    return mixed / mixed.sum(-1, keepdims=True)


def discarded(weights: Float[Array, "batch tokens tokens"], ratio: float) -> Float[Array, "batch tokens tokens"]:
    """Returns the weights with the smallest share of each image's set to zero.

    Raises:
      UserError: the ratio is not in [0, 1).
    """
    if not 0 <= ratio < 1:
        raise UserError(f"discard_ratio is a share of the attention weights, from 0 to less than 1, not {ratio}")
    flat = jnp.asarray(weights).reshape(len(weights), -1)
    order = jnp.argsort(flat, axis=1)
    rank = jnp.argsort(order, axis=1)
    return jnp.where(rank < int(ratio * flat.shape[1]), 0, flat).reshape(weights.shape)
