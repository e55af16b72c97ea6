"""Who attends to whom: the plain kind of attention, what every other kind answers as well, and top-k."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.attention_kernel import chosen_kernel, fused_attention, require_plain
from vit_jax.layers.grid_tokens import Layout
from vit_jax.layers.product import attend, attention_scores, attention_weights, mix
from vit_jax.layers.relative_bias import OffsetScores

EXCLUDED = -1e30
"""A score whose weight is 0; finite, so that a query that may attend to nothing, such as padding, gives no NaN."""

Queries = Float[Array, "batch queries heads head_dim"]
Keys = Float[Array, "batch keys heads head_dim"]
Values = Float[Array, "batch keys heads value_dim"]


class Cost(NamedTuple):
    """What attention takes for one image, beside its projections.

    Attributes:
      flops: of its products, two for each multiply-add: scores and mixing, or what stands in their place.
      largest: numbers in the largest array between queries, keys, values and the result.
    """

    flops: int
    largest: int


def no_dropout(part: int) -> None:
    """Drops nothing."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What attention is told beside queries, keys and values.

    Attributes:
      layout: where the tokens stand, None where no kind needs it.
      offsets: what is added to the scores for relative positions, or None.
      bias: what else is added to them, as `vit_jax.layers.product.attend` takes it, or None.
      sizes: how many equal tokens each key stands for, None for 1.
      drop: returns the dropout of the weights of one part of the attention, by its number, or None.
      kernel: see `vit_jax.layers.attention_kernel.KERNELS`.
    """

    layout: Layout | None = None
    offsets: OffsetScores | None = None
    bias: Float[Array, "..."] | None = None
    sizes: Float[Array, "batch tokens"] | None = None
    drop: Callable[[int], Callable[[Array], Array] | None] = no_dropout
    kernel: str = "plain"

    def added(self) -> Float[Array, "groups heads queries keys"] | None:
        """Returns all that is added to the scores of all queries and keys, or None."""
        terms = [] if self.bias is None else [self.bias]
        terms += [] if self.offsets is None else [self.offsets.dense(self.layout)]
        terms += [] if self.sizes is None else [jnp.log(self.sizes)[:, None, None]]
        return sum(terms[1:], terms[0]) if terms else None

    def why_plain(self) -> str | None:
        """Returns why a fused kernel cannot do it, or None."""
        if self.sizes is not None:
            return "it does not add the sizes of merged tokens (model.merge_tokens)"
        plain = self.bias is None and self.offsets is None
        return None if plain else "it does not add relative positions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Full:
    """Every token attends to every token, cls and registers like the patches (Vaswani et al. 2017, eq. 1).

    Attributes:
      relative: each block has a table of what is added to its scores for each offset.
      rotary: queries and keys are turned by their places (see `vit_jax.layers.rope`).
    """

    relative: bool = False
    rotary: bool = False

    needs_grid = False
    """Whether it does not work without a whole grid of patches."""

    has_scores = True
    """Whether weights are the softmax of scores, to which something can be added."""

    turns_features = False
    """Whether it turns its features itself (see `rotary`), and not the queries and keys."""

    @property
    def placed(self) -> bool:
        """Whether it must be told where the tokens stand."""
        return self.needs_grid or self.relative or self.rotary

    def mixed(self, query: Queries, key: Keys, value: Values, given: Given) -> Queries:
        """Returns the values as they are mixed for each query, in the way that takes least."""
        reason, drop = given.why_plain(), given.drop(0)
        if reason is not None:
            require_plain(given.kernel, reason)
        elif chosen_kernel(given.kernel, query, key, drops=drop is not None) == "cudnn":
            return fused_attention(query, key, value)
        return attend(query, key, value, drop, given.added())

    def weights(self, query: Queries, key: Keys, given: Given) -> Float[Array, "batch*heads queries keys"]:
        """Returns the weights of all tokens for each query, float32: their sums of the values are what is mixed."""
        return attention_weights(query, key, given.added())

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image: its products and its largest array grow with the square of the tokens.

        Args:
          grid: rows and columns of patches.
          prefix: tokens before them.
          head_dim: channels of each of the `heads`.
        """
        pairs = heads * (prefix + grid[0] * grid[1]) ** 2
        return Cost(4 * pairs * head_dim, pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK(Full):
    """Each query, of a patch, cls or register, keeps its k largest scores (Zhao et al. 2019, "Explicit Sparse
    Transformer", eq. 3 to 5); with them all whose score equals the k-th.

    All scores are formed, and sorted in part: this sharpens attention but saves neither products nor memory.

    Attributes:
      k: how many scores are kept; all where there are not so many.
    """

    k: int = 32

    def mixed(self, query: Queries, key: Keys, value: Values, given: Given) -> Queries:
        """Returns the values as they are mixed for each query."""
        require_plain(given.kernel, "it does not keep the largest scores alone (model.attention)")
        weights, drop = self.weights(query, key, given), given.drop(0)
        return mix(weights if drop is None else drop(weights), value)

    def weights(self, query: Queries, key: Keys, given: Given) -> Float[Array, "batch*heads queries keys"]:
        """Returns the softmax of the largest scores, and 0 for the others."""
        scores = attention_scores(query, key, given.added())
        if self.k < scores.shape[-1]:
            least = jax.lax.top_k(jax.lax.stop_gradient(scores), self.k)[0][..., -1:]
            scores = jnp.where(scores >= least, scores, EXCLUDED)
        return jax.nn.softmax(scores, axis=-1)
