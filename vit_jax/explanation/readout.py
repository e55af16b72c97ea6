"""Which of the last tokens a model reads to classify, and how much of each."""

import flax.linen as nn
import numpy as np
from jaxtyping import Float

from vit_jax.explanation.placement import AttentionLayer

POOL = "map_pool"
"""The name of the layer of attention pooling (Zhai et al. 2022)."""


def class_tokens_read(module: nn.Module) -> int:
    """Returns how many tokens at the beginning alone are read: cls, cls and dist, or several cls; 0: patches are."""
    pool = getattr(module, "pool", None)
    if pool not in ("cls", "multi_cls"):
        return 0
    return len(module.class_token_names) if pool == "multi_cls" or getattr(module, "dist_classifier", False) else 1


def readout(
    module: nn.Module, layers: dict[str, AttentionLayer], batch: int, tokens: int
) -> Float[np.ndarray, "batch tokens"]:
    """Returns how much of each of the last block's tokens is read, whatever the class; the shares sum to 1.

    That is the cls token; the cls and dist tokens of a distilled model by halves; with attention pooling the mean of
    its heads; half the cls token and half the patches with `cls_gap`; else all patches alike.
    """
    first = class_tokens_read(module)
    shares = np.zeros((batch, tokens), np.float32)
    if first:
        shares[:, :first] = 1 / first
        return shares
    before = getattr(module, "prefix_tokens", 0)
    if POOL in layers:
        shares[:, before:] = layers[POOL].weights[:, 0].mean(1)[:, 0]
        return shares
    both = getattr(module, "pool", None) == "cls_gap"
    shares[:, before:] = (0.5 if both else 1) / (tokens - before)
    shares[:, 0] += 0.5 if both else 0
    return shares
