"""Attention among some of the patches: windows, rows and columns, blocks with a sparse grid for all.

In all of these the tokens of the prefix (cls, registers) attend to all tokens, and all patches to them. The patches are
laid out in groups that have their keys in common, with the keys of the prefix before them: nothing of the size
`[tokens, tokens]` is formed unless the weights are asked for.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vit_jax.layers.attention_kernel import require_plain
from vit_jax.layers.attention_kind import EXCLUDED, Cost, Full, Given, Keys, Queries, Values
from vit_jax.layers.grid_tokens import Layout, with_prefix, without_prefix
from vit_jax.layers.product import attend, attention_scores
from vit_jax.layers.relative_bias import OffsetScores

Groups = Float[Array, "batch groups members heads head_dim"]
Map = Float[Array, "batch rows columns heads head_dim"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped(Full, abc.ABC):
    """What the kinds have in common whose patches attend in groups."""

    needs_grid = True

    @abc.abstractmethod
    def patches(self, query: Map, key: Map, value: Map, shared: tuple[Keys, Values], given: Given) -> Map:
        """Returns the values as they are mixed for each patch.

        Args:
          shared: keys and values of the prefix.
        """

    @abc.abstractmethod
    def attended(self, layout: Layout) -> Bool[Array, "patches patches"]:
        """Returns which patches, as keys, each patch attends to."""

    def mixed(self, query: Queries, key: Keys, value: Values, given: Given) -> Queries:
        """Returns the values as they are mixed for each query."""
        layout = given.layout
        require_plain(given.kernel, "it has no groups of patches (model.attention)")
        require_whole(layout)
        prefix = slice(0, layout.prefix)
        maps = (without_prefix(x, layout) for x in (query, key, value))
        patches = self.patches(*maps, (key[:, prefix], value[:, prefix]), given)
        bias = None if given.offsets is None else given.offsets.prefix_rows(layout.tokens - layout.prefix)
        first = attend(query[:, prefix], key, value, given.drop(1), bias) if layout.prefix else patches[:, 0, :0]
        return with_prefix(first, patches)

    def weights(self, query: Queries, key: Keys, given: Given) -> Float[Array, "batch*heads queries keys"]:
        """Returns the weights, 0 where nothing is attended to."""
        require_whole(given.layout)
        allowed = among_all(self.attended(given.layout), given.layout.prefix)
        return masked_softmax(attention_scores(query, key, given.added()), allowed)


def require_whole(layout: Layout) -> None:
    """Raises a `ValueError` where some patches are missing from the grid."""
    if layout.places is not None:
        raise ValueError("attention in groups of patches needs the whole grid of them: some are left out of it")


def among_all(patches: Bool[Array, "patches patches"], prefix: int) -> Bool[Array, "tokens tokens"]:
    """Returns who attends to whom where all attend to the prefix, and the prefix to all."""
    return jnp.pad(patches, ((prefix, 0), (prefix, 0)), constant_values=True)


def masked_softmax(
    scores: Float[Array, "batch*heads queries keys"], allowed: Bool[Array, "queries keys"]
) -> Float[Array, "batch*heads queries keys"]:
    """Returns the softmax over the keys that are allowed."""
    return jax.nn.softmax(jnp.where(allowed, scores, EXCLUDED), axis=-1)


def attend_groups(
    query: Groups,
    key: Groups,
    value: Groups,
    shared: tuple[Keys, Values],
    bias: Float[Array, "groups heads queries keys"] | None,
    drop=None,
) -> Groups:
    """Returns the values of each group as they are mixed for its queries.

    Args:
      shared: keys and values that come first in each group.
      bias: added to the scores of each group, or of all, shared keys included.
      drop: see `vit_jax.layers.product.attend`.
    """
    batch, groups = query.shape[:2]

    def joined(common: Keys, own: Groups) -> Groups:
        common = jnp.broadcast_to(common[:, None], (batch, groups, *common.shape[1:]))
        return jnp.concatenate([common, own], axis=2)

    if shared[0].shape[1]:
        key, value = joined(shared[0], key), joined(shared[1], value)
    folded = (x.reshape(batch * groups, *x.shape[2:]) for x in (query, key, value))
    mixed = attend(*folded, drop, bias)
    return mixed.reshape(batch, groups, *mixed.shape[1:])


def group_bias(
    offsets: OffsetScores | None,
    queries: Float[Array, "groups queries 2"],
    keys: Float[Array, "groups keys 2"],
    allowed: Bool[Array, "groups queries keys"] | None = None,
    prefix: int = 0,
) -> Float[Array, "groups heads queries prefix+keys"] | None:
    """Returns what is added to the scores of the patches of each group, or None where it is nothing.

    Args:
      queries: rows and columns of the patches of a group; one group stands for all where they are alike.
      keys: likewise.
      allowed: which keys each query attends to, None for all.
      prefix: how many keys of the prefix come first, to which all attend.
    """
    terms = []
    if offsets is not None:
        between = offsets.between(queries, keys)
        terms.append(offsets.with_prefix_keys(between) if prefix else between)
    if allowed is not None:
        mask = jnp.where(allowed, 0.0, EXCLUDED)[:, None]
        terms.append(jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (prefix, 0))))
    return sum(terms[1:], terms[0]) if terms else None


def group_cost(heads: int, head_dim: int, groups: int, queries: int, keys: int, shared: int) -> Cost:
    """Returns the cost of attention in groups, each of whose queries meets `keys` of its own and some shared ones."""
    pairs = heads * groups * queries * (shared + keys)
    joined = heads * groups * (shared + keys) * head_dim if shared else 0
    return Cost(4 * pairs * head_dim, max(pairs, joined))


def prefix_cost(heads: int, head_dim: int, prefix: int, tokens: int) -> Cost:
    """Returns the cost of the attention of the prefix to all tokens."""
    pairs = heads * prefix * tokens
    return Cost(4 * pairs * head_dim, pairs)


def total(*costs: Cost) -> Cost:
    """Returns the cost of several parts, one after the other."""
    return Cost(sum(cost.flops for cost in costs), max(cost.largest for cost in costs))
