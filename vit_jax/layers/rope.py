"""Rotary positions on a grid."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.layers.grid_tokens import Layout

BASE = 100.0
"""Wavelengths grow from 2π patches to `BASE` times as many (Heo et al. 2024, section 3.2, where 10,000 is text's)."""


def rotated(x: Float[Array, "batch tokens heads head_dim"], layout: Layout) -> Float[Array, "batch tokens heads d"]:
    """Returns queries or keys turned by their places, so that their products depend on offsets alone.

    Rotary position embedding (Su et al. 2021, RoFormer, eq. 34), axial: the angles of one half of the channels are
    proportional to the row, of the other to the column (Heo et al. 2024, "Rotary Position Embedding for Vision
    Transformer", eq. 7). Channel i is turned with channel i + head_dim/2. The tokens of the prefix, which stand
    nowhere, are left as they are. Angles and rotation are float32.

    Raises:
      ValueError: the channels of a head are not a multiple of 4.
    """
    head_dim = x.shape[-1]
    if head_dim % 4:
        raise ValueError(f"position 'rope2d' turns pairs of channels by row and by column: {head_dim} channels a head")
    turns = angles(layout, head_dim)[:, :, None]
    numpy = np if isinstance(turns, np.ndarray) else jnp
    cos, sin = (jnp.asarray(function(turns), jnp.float32) for function in (numpy.cos, numpy.sin))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1).astype(x.dtype)


def angles(layout: Layout, head_dim: int) -> Float[Array, "batch tokens half"]:
    """Returns by how much each pair of channels is turned: those of rows, then those of columns; 0 in the prefix."""
    quarter = head_dim // 4
    frequencies = BASE ** -(np.arange(quarter) / quarter)
    places = layout.coordinates()
    numpy = np if isinstance(places, np.ndarray) else jnp
    turns = (places[..., None] * frequencies).reshape(*places.shape[:2], 2 * quarter)
    return numpy.pad(turns, ((0, 0), (layout.prefix, 0), (0, 0)))
