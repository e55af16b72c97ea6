"""Attention by products of features, which are summed over the tokens once: linear in their number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.layers.attention_kernel import require_plain
from vit_jax.layers.attention_kind import Cost, Full, Given, Keys, Queries, Values
from vit_jax.layers.product import join_heads, matmul, matmul_first, split_heads
from vit_jax.layers.rope import rotated

Features = Float[Array, "batch tokens heads features"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Full):
    """φ(q)ᵀ Σ φ(k) vᵀ / φ(q)ᵀ Σ φ(k) with φ(x) = elu(x) + 1, for cls, registers and patches alike (Katharopoulos et al.
    2020, "Transformers are RNNs", eqs. 5 and 7).

    Rotary positions turn the features above the line and leave those below, so that both depend on offsets alone and
    what is divided by stays above 0 (Su et al. 2021, RoFormer, eq. 19); the weights need not sum to 1 then.
    Products run in the type of the values, features and sums in float32.
    """

    has_scores = False
    turns_features = True

    def features(self, query: Queries, key: Keys) -> tuple[Features, Features]:
        """Returns the features of queries and keys, above 0, float32."""
        return tuple(jax.nn.elu(x.astype(jnp.float32)) + 1 for x in (query, key))

    def parts(self, query: Queries, key: Keys, given: Given) -> tuple[Features, Features, Float[Array, "b n h 1"]]:
        """Returns features of queries and keys, turned by their places if need be, and what to divide by.

        Of the features of keys the mean is taken, not the sum, so that no type of numbers is too narrow for it.
        """
        of_query, of_key = self.features(query, key)
        of_key = of_key / of_key.shape[1]
        if given.sizes is not None:
            of_key = of_key * given.sizes[..., None, None]
        normal = (of_query * of_key.sum(1, keepdims=True)).sum(-1, keepdims=True)
        if self.rotary and self.turns_features:
            of_query, of_key = (rotated(x, given.layout) for x in (of_query, of_key))
        return of_query, of_key, normal

    def mixed(self, query: Queries, key: Keys, value: Values, given: Given) -> Queries:
        """Returns the values as they are mixed for each query."""
        require_plain(given.kernel, "it has no other kernel than the softmax's (model.attention)")
        of_query, of_key, normal = self.parts(query, key, given)
        summed = matmul_first(split_heads(of_key.astype(value.dtype)), split_heads(value), batch=1)
        mixed = matmul(split_heads(of_query.astype(value.dtype)), summed.astype(value.dtype), batch=1)
        return (join_heads(mixed, value.shape) / normal).astype(value.dtype)

    def weights(self, query: Queries, key: Keys, given: Given) -> Float[Array, "batch*heads queries keys"]:
        """Returns the products of features, divided as the values are: written out, `[tokens, tokens]`."""
        of_query, of_key, normal = self.parts(query, key, given)
        return matmul(split_heads(of_query), split_heads(of_key), batch=1, transpose=True) / split_heads(normal)

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image."""
        return sums_cost(prefix + grid[0] * grid[1], heads, head_dim, head_dim)


def sums_cost(tokens: int, heads: int, features: int, head_dim: int) -> Cost:
    """Returns the cost of the sums over keys, and of their products with the features of queries."""
    largest = heads * max(tokens * features, features * head_dim)
    return Cost(4 * tokens * heads * features * head_dim, largest)


STEADY = 1e-8
"""Added to random features, so that a query whose features are those of no key divides by more than 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Performer(Linear):
    """Linear attention whose features' product is, in the mean, the exponential of the scaled score (Choromanski et al.
    2021, "Rethinking Attention with Performers", FAVOR+): positive orthogonal random features, lemma 1 and section 2.3.

    The more features, the nearer to softmax attention. They are drawn once, the same in every run, block and head, and
    no parameters. Rotary positions turn queries and keys before, as in softmax attention.

    Attributes:
      features_count: their number; the paper's rule is head_dim · log(head_dim).
    """

    features_count: int = 256

    turns_features = False

    def features(self, query: Queries, key: Keys) -> tuple[Features, Features]:
        """Returns the features of queries and keys, above 0, float32.

        What is subtracted in the exponents, lest they overflow, cancels: of a query its own greatest, of all keys of a
        head the greatest.
        """
        found = []
        for x, over in ((query, (3,)), (key, (1, 3))):
            directions = jnp.asarray(orthogonal_directions(self.features_count, x.shape[-1]), x.dtype)
            scaled = (x * x.shape[-1] ** -0.25).astype(x.dtype)
            length = jnp.square(scaled.astype(jnp.float32)).sum(-1, keepdims=True)
            exponents = jnp.matmul(scaled, directions.T, preferred_element_type=jnp.float32) - length / 2
            greatest = jax.lax.stop_gradient(exponents).max(over, keepdims=True)
            found.append((jnp.exp(exponents - greatest) + STEADY) * self.features_count**-0.5)
        return tuple(found)

    def cost(self, grid: tuple[int, int], prefix: int, heads: int, head_dim: int) -> Cost:
        """Returns what it takes for one image, the products that give the features included."""
        tokens, count = prefix + grid[0] * grid[1], self.features_count
        sums = sums_cost(tokens, heads, count, head_dim)
        return Cost(sums.flops + 4 * tokens * heads * count * head_dim, sums.largest)


@functools.cache
def orthogonal_directions(count: int, head_dim: int) -> Float[np.ndarray, "count head_dim"]:
    """Returns directions with the lengths of normal vectors, those of each block of head_dim at right angles.

    NumPy draws them, so that they are constants of a program, whatever traces it.
    """
    generator = np.random.default_rng(0)
    blocks = []
    for _ in range(-(-count // head_dim)):
        directions, triangle = np.linalg.qr(generator.normal(size=(head_dim, head_dim)))
        directions = directions * np.sign(np.diag(triangle))  # else they favour one side (Mezzadri 2007, section 5)
        lengths = np.linalg.norm(generator.normal(size=(head_dim, head_dim)), axis=1, keepdims=True)
        blocks.append(directions.T * lengths)
    return np.concatenate(blocks)[:count].astype(np.float32)
