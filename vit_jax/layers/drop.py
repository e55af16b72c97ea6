"""Random omission in training: dropout of entries, drop path of whole residual branches.

Both take their key as an argument. A block folds it by its own index, so that a loop over the blocks and a scan over
them draw the same numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(key: jax.Array | None, x: Float[Array, "..."], rate: float) -> Float[Array, "..."]:
    """Zeroes entries with probability `rate` and scales the rest by 1/(1-rate) (Srivastava et al. 2014).

    Without a key (evaluation) or at rate 0 it returns `x` itself.
    """
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(
    key: jax.Array | None, branch: Float[Array, "batch ..."], rate: float | Float[Array, ""]
) -> Float[Array, "batch ..."]:
    """Drops the whole branch of an example with probability `rate` (stochastic depth, Huang et al. 2016).

    Kept branches are scaled by 1/(1-rate), so that evaluation needs no correction. `rate` may be traced, as it is
    when the layers are scanned.
    """
    if key is None or (isinstance(rate, float) and rate == 0.0):
        return branch
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    return jnp.where(kept, (branch / keep).astype(branch.dtype), jnp.zeros_like(branch))


def drop_path_rate(rate: float, layer: int | jax.Array, depth: int) -> float | jax.Array:
    """Returns the rate of one layer: linear from 0 at the first to `rate` at the last (Huang et al. 2016, eq. 4)."""
    return rate * layer / max(depth - 1, 1)
