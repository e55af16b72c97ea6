"""Attention flow (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vit_jax.explanation.rollout import fused, with_residual

UNIT = 2**29
"""Capacity 1, as scipy counts in whole numbers of 31 bits; a flow is exact to the tokens' number times 1e-9."""


def attention_flow(
    maps: Sequence[Float[np.ndarray, "batch heads tokens tokens"]],
    readout: Float[np.ndarray, "batch tokens"],
    fusion: str = "mean",
    prefix: int = 0,
) -> Float[np.ndarray, "batch patches"]:
    """Returns the greatest flow from what is read after the last layer to each input token.

    The network has a node for each token of each layer; an edge from a token to one a layer below has as capacity the
    weight with which it draws on it, half of all being the residual stream's, as in rollout. What all paths together
    can carry is bounded by their narrowest places, where rollout multiplies along each path.

    Args:
      maps: the attention weights of the layers, first to last.
      readout: how much of each of the last layer's tokens is read, summing to 1: a source's edges to them.
      fusion: of the heads, see `vit_jax.explanation.rollout.fused`.
      prefix: input tokens at the beginning, cls and others, whose flow is not wanted.
    """
    steps = [np.asarray(with_residual(fused(weights, fusion))) for weights in maps]
    each = [one_flow([step[i] for step in steps], readout[i], prefix) for i in range(len(readout))]
    return np.array(each, np.float32)


def one_flow(
    steps: Sequence[Float[np.ndarray, "tokens tokens"]], readout: Float[np.ndarray, "tokens"], prefix: int
) -> list[float]:
    """Returns the flows of one image; each token's is a problem of its own."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    tokens, depth = len(readout), len(steps)
    source = (depth + 1) * tokens
    higher, lower = np.indices((tokens, tokens)).reshape(2, -1)
    starts = [np.full(tokens, source), *(higher + (i + 1) * tokens for i in range(depth))]
    ends = [np.arange(tokens) + depth * tokens, *(lower + i * tokens for i in range(depth))]
    capacities = np.concatenate([np.asarray(readout, np.float64), *(step.astype(np.float64).ravel() for step in steps)])
    whole = np.rint(capacities * UNIT).astype(np.int32)
    some = whole > 0
    edges = (np.concatenate(starts)[some], np.concatenate(ends)[some])
    network = csr_matrix((whole[some], edges), shape=(source + 1, source + 1))
    return [maximum_flow(network, source, sink).flow_value / UNIT for sink in range(prefix, tokens)]
