"""What tokens hold: their principal components as colours, and how alike they are."""

import numpy as np
from jaxtyping import Float, Shaped

from vit_jax.errors import UserError


def principal_colours(
    features: Float[np.ndarray, "batch rows columns width"],
) -> Float[np.ndarray, "batch rows columns 3"]:
    """Returns the first three principal components of all tokens as red, green and blue, each from 0 to 1.

    As DINOv2 is shown (Oquab et al. 2023, figure 1). The images of a batch share their components, so that alike
    tokens have alike colours in all of them. A component's sign, which is free, is that of its largest channel; its
    lowest and highest 1 % are cut off.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:3]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    values = centred @ (directions * np.where(largest < 0, -1, 1)).T
    values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))  # fewer than 3 tokens or channels
    low, high = np.percentile(values, [1, 99], axis=0)
    spread = np.where(high > low, high - low, 1)
    return np.clip((values - low) / spread, 0, 1).reshape(*features.shape[:3], 3).astype(np.float32)


def similarity(
    features: Float[np.ndarray, "batch rows columns width"], place: tuple[int, int]
) -> Float[np.ndarray, "batch rows columns"]:
    """Returns the cosine of each token with that of a chosen row and column.

    Raises:
      UserError: there is no such place.
    """
    row, column = place
    require_place(features, place)
    chosen = features[:, row, column][:, None, None]
    norms = np.linalg.norm(features, axis=-1) * np.linalg.norm(chosen, axis=-1)
    return ((features * chosen).sum(-1) / np.where(norms > 0, norms, 1)).astype(np.float32)


def require_place(features: Shaped[np.ndarray, "batch rows columns ..."], place: tuple[int, int]) -> None:
    """Raises a `UserError` for a place that is not on the grid."""
    rows, columns = features.shape[1:3]
    if not (0 <= place[0] < rows and 0 <= place[1] < columns):
        raise UserError(f"there are {rows}x{columns} places, no {place[0]},{place[1]} (row,column, counted from 0)")
