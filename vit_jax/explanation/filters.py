"""What the first layer looks for (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", figure 7, left)."""

import flax.traverse_util
import numpy as np
from jaxtyping import Float

from vit_jax.errors import UserError

SHOWN = 28
"""Principal components, as many as the figure shows."""


def first_kernel(params: dict) -> Float[np.ndarray, "height width 3 filters"]:
    """Returns the kernel that is applied to pixels: that of the patch embedding, or of a network's first convolution.

    Raises:
      UserError: there is not exactly one.
    """
    named = flax.traverse_util.flatten_dict(params, sep="/")
    found = [name for name, array in named.items() if np.ndim(array) == 4 and np.shape(array)[2] == 3]
    if len(found) != 1:
        raise UserError(f"filters of pixels: one kernel over three channels is expected, not {len(found)}")
    return np.asarray(named[found[0]], np.float32)


def principal_filters(
    kernel: Float[np.ndarray, "height width 3 filters"], count: int = SHOWN
) -> Float[np.ndarray, "components height width 3"]:
    """Returns the principal components of the filters, those that explain most of them first, each of length 1.

    They are fewer than `count` where the filters have no more. A component's sign, which is free, is that of its
    largest number.
    """
    height, width, channels, _ = kernel.shape
    flat = kernel.reshape(height * width * channels, -1).T.astype(np.float64)
    _, _, components = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    components = components[:count]
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
    components = components * np.where(largest < 0, -1, 1)
    return components.reshape(-1, height, width, channels).astype(np.float32)
