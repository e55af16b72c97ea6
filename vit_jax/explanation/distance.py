"""How far heads look (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 4.5 and figure 7, right)."""

import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError
from vit_jax.explanation.placement import NOWHERE, AttentionLayer


def mean_distance(layer: AttentionLayer, image_size: tuple[int, int]) -> Float[np.ndarray, "batch heads"]:
    """Returns the mean distance, in pixels of the image, between a place and those to which it attends.

    Places are weighted by attention, the tokens that are nowhere (cls, registers, padding) left out.

    Raises:
      UserError: the layer's queries are at no place (attention pooling).
    """
    if layer.weights.shape[-2] != layer.weights.shape[-1]:
        raise UserError(f"in {layer.name} a learned probe attends, which is at no distance from anything")
    somewhere = layer.places != NOWHERE
    pixels = np.array(image_size) / layer.grid
    points = np.stack(np.divmod(layer.places, layer.grid[1]), axis=-1) * pixels
    apart = np.linalg.norm(points[:, :, None] - points[:, None, :], axis=-1)
    weights = layer.weights * somewhere[:, None, None, :]
    total = weights.sum(-1)
    mean = np.einsum("bghqk,gqk->bghq", weights, apart) / np.where(total > 0, total, 1)
    counted = somewhere[:, None] & (total > 0)
    return ((mean * counted).sum((1, 3)) / counted.sum((1, 3))).astype(np.float32)
