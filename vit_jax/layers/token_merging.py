"""Token merging (Bolya et al. 2023, "Token Merging: Your ViT But Faster"): fewer tokens after every block.

In each block, between attention and MLP, the patches' tokens are dealt in turn into two sets, A and B. Every token of A
is matched with the token of B whose keys are most alike; the most alike pairs are merged, each into the mean of all
patches that its two tokens stand for. The tokens that are left come in the order A, B. Nothing is learned: any trained
model can be run like that.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

EXACT = jax.lax.Precision.HIGHEST
"""Of the products here, which are small: accelerators would else round the tokens that are only added or moved."""


class MergedTokens(NamedTuple):
    """Tokens that stand for several patches each.

    Attributes:
      tokens: first those that are never merged (cls, dist, registers), then what became of the patches.
      sizes: float32, of how many patches each token is the mean; 1 for those that are never merged. None where nothing
        is merged.
      assignment: for each patch, row by row, the index among all tokens of the one that it is part of. None where
        nothing is merged and all patches are of one size (of adaptive ones, the smallest are meant).
        `jnp.take_along_axis(tokens, assignment[..., None], axis=1)` lays tokens back on the image.
    """

    tokens: Float[Array, "batch tokens width"]
    sizes: Float[Array, "batch tokens"] | None = None
    assignment: Int[Array, "batch patches"] | None = None


class Matching(NamedTuple):
    """Which tokens of A are merged into which of B.

    Attributes:
      merged: indices in A of the tokens that are merged, the most alike first.
      kept: indices in A of the others, ascending.
      partners: for each token of A, the index in B of the token that is most like it.
    """

    merged: Int[Array, "batch merged"]
    kept: Int[Array, "batch kept"]
    partners: Int[Array, "batch a"]


def unmerged(tokens: Float[Array, "batch tokens width"], prefix: int) -> MergedTokens:
    """Returns the tokens that enter the first block: after `prefix` others, one for each patch."""
    batch, count, _ = tokens.shape
    assignment = jnp.broadcast_to(jnp.arange(prefix, count), (batch, count - prefix))
    return MergedTokens(tokens, jnp.ones((batch, count), jnp.float32), assignment)


def merge(x: MergedTokens, keys: Float[Array, "batch tokens heads head_dim"], count: int, prefix: int) -> MergedTokens:
    """Returns the tokens with the `count` most alike pairs merged, or as many as there can be: half of the patches'.

    Args:
      keys: of the attention before; tokens are as alike as the means of their keys over the heads, by the cosine.
      prefix: how many tokens at the beginning are never merged.
    """
    count = min(count, (keys.shape[1] - prefix) // 2)
    if count < 1:
        return x
    found = match(keys[:, prefix:].astype(jnp.float32).mean(axis=2), count)
    sums = _merged_rows(x.tokens * x.sizes[..., None], found, prefix)
    sizes = _merged_rows(x.sizes[..., None], found, prefix)
    moved = _moved(found, prefix, keys.shape[1])
    assignment = jnp.take_along_axis(moved, x.assignment, axis=1)
    return MergedTokens((sums / sizes).astype(x.tokens.dtype), sizes[..., 0], assignment)


def match(metric: Float[Array, "batch patches features"], count: int) -> Matching:
    """Returns the bipartite soft matching of the `count` most alike pairs (section 3 of the paper).

    A are the tokens of even index, B those of odd. Of equal candidates the first is taken.
    """
    metric = metric / jnp.maximum(jnp.linalg.norm(metric, axis=-1, keepdims=True), 1e-12)
    likeness = jnp.einsum("bid,bjd->bij", metric[:, ::2], metric[:, 1::2], precision=EXACT)
    order = jnp.argsort(-likeness.max(axis=-1), axis=-1)
    # In their old order: neighbours in the image stay neighbours, which the next block deals into different sets.
    return Matching(order[:, :count], jnp.sort(order[:, count:], axis=-1), likeness.argmax(axis=-1))


def _merged_rows(rows: Float[Array, "batch tokens d"], found: Matching, prefix: int) -> Float[Array, "batch fewer d"]:
    """Returns the rows of the prefix, of A without those that are merged, and of B with these added."""
    a, b = rows[:, prefix::2], rows[:, prefix + 1 :: 2]
    into = jax.nn.one_hot(jnp.take_along_axis(found.partners, found.merged, axis=1), b.shape[1], dtype=jnp.float32)
    b = b + jnp.einsum("bmj,bmd->bjd", into, taken(a, found.merged), precision=EXACT)
    return jnp.concatenate([rows[:, :prefix], taken(a, found.kept), b], axis=1)


def taken(rows: Float[Array, "batch tokens ..."], indices: Int[Array, "batch n"]) -> Float[Array, "batch n ..."]:
    """Returns of each example the rows with these indices."""
    return jax.vmap(lambda rows, indices: rows[indices])(rows, indices)


def _moved(found: Matching, prefix: int, tokens: int) -> Int[Array, "batch tokens"]:
    """Returns for each token before the merging the index of that which it is part of thereafter."""
    batch, a = found.partners.shape
    kept = a - found.merged.shape[1]
    is_merged = jax.nn.one_hot(found.merged, a, dtype=jnp.int32).sum(axis=1)
    rank = jnp.cumsum(1 - is_merged, axis=1) - 1
    of_a = prefix + jnp.where(is_merged == 1, kept + found.partners, rank)
    of_b = prefix + kept + np.arange(tokens - prefix - a, dtype=np.int32)
    first = np.arange(prefix, dtype=np.int32)
    moved = [jnp.broadcast_to(first, (batch, prefix)), of_a, jnp.broadcast_to(of_b, (batch, len(of_b)))]
    dealt = np.concatenate([first, np.arange(prefix, tokens, 2), np.arange(prefix + 1, tokens, 2)])
    return jnp.concatenate(moved, axis=1)[:, np.argsort(dealt)]
