"""How alike positions are (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", figure 7, centre)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError


def position_embeddings(
    module: nn.Module, variables: dict, image_size: tuple[int, int]
) -> Float[np.ndarray, "rows columns width"]:
    """Returns what a model adds to the tokens of its patches to tell where they are.

    Raises:
      UserError: it adds nothing.
    """
    kind = getattr(module, "position", None)
    if kind is None:
        raise UserError(f"a {type(module).__name__} has no position embeddings")

    def added(module):
        # Patches of several sizes have the positions of a grid of equal ones.
        grid = getattr(module.embedding, "position_grid", module.embedding.grid)(image_size)
        before = module.position_embed.prefix
        tokens = jnp.zeros((1, before + grid[0] * grid[1], module.width))
        return module.position_embed(tokens, *grid)[0, before:].reshape(*grid, module.width)

    embeddings = np.asarray(module.apply(variables, method=added), np.float32)
    if not embeddings.any():
        raise UserError(f"no position embeddings are added to the tokens of this model (position is {kind!r})")
    return embeddings


def position_similarity(
    embeddings: Float[np.ndarray, "rows columns width"],
) -> Float[np.ndarray, "rows columns rows columns"]:
    """Returns the cosine of each place's embedding (the first two axes) with every other's."""
    rows, columns, width = embeddings.shape
    flat = embeddings.reshape(-1, width).astype(np.float64)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(norms > 0, norms, 1)
    return (flat @ flat.T).reshape(rows, columns, rows, columns).astype(np.float32)
