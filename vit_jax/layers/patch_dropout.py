"""Patch dropout (Liu et al. 2022, "PatchDropout: Economizing Vision Transformers Using Patch Dropout")."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.grid_tokens import Layout
from vit_jax.layers.token_merging import taken


def kept_patches(patches: int, rate: float) -> int:
    """Returns how many of so many patches are kept: at least one."""
    return max(round(patches * (1 - rate)), 1)


def patch_dropout(
    key: jax.Array, tokens: Float[Array, "batch tokens width"], layout: Layout, rate: float
) -> tuple[Float[Array, "batch fewer width"], Layout]:
    """Returns the prefix and a random choice of the patches' tokens, in their order, another for every image.

    Their number is fixed, so that the shapes are; nothing is scaled, as neither attention nor means grow with it. Each
    keeps its place; position embeddings are to be added before.
    """
    prefix, patches = tokens[:, : layout.prefix], tokens[:, layout.prefix :]
    batch, count, _ = patches.shape
    order = jnp.argsort(jax.random.uniform(key, (batch, count)), axis=1)
    kept = jnp.sort(order[:, : kept_patches(count, rate)], axis=1)
    places = jnp.broadcast_to(jnp.asarray(layout.coordinates(), jnp.float32), (batch, count, 2))
    return jnp.concatenate([prefix, taken(patches, kept)], axis=1), layout.replace(places=taken(places, kept))
