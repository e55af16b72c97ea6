"""From pixels to tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import flat_fan
from vit_jax.layers.product import affine
from vit_jax.layers.types import DTypeLike


def grid_shape(image_shape: tuple[int, int], patch_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of the patch grid.

    Raises:
      ValueError: the image's height or width is not a multiple of the patch's.
    """
    for name, side, patch in zip(("height", "width"), image_shape, patch_size, strict=True):
        if side % patch:
            raise ValueError(f"image {name} {side} is not a multiple of patch {name} {patch}")
    return image_shape[0] // patch_size[0], image_shape[1] // patch_size[1]


class PatchEmbed(nn.Module):
    """Projects non-overlapping image patches to tokens (Dosovitskiy et al. 2021, eq. 1).

    Maps `[batch, height, width, channels]` to `[batch, rows * columns, width]`, row by row. The kernel has the shape
    of the convolution that it equals, `[patch height, patch width, channels, width]`; the product is a plain matrix
    product over flattened patches, which every backend runs faster. The tokens are float32, as the residual stream is.

    Raises:
      ValueError: the image's height or width is not a multiple of the patch size.
    """

    patch_size: tuple[int, int]
    width: int
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens; see `grid_shape`."""
        return grid_shape(image_shape, self.patch_size)

    @nn.compact
    def __call__(self, images: Float[Array, "batch height_px width_px channels"]) -> Float[Array, "batch tokens width"]:
        batch, height, breadth, channels = images.shape
        rows, columns = grid_shape((height, breadth), self.patch_size)
        shape = (*self.patch_size, channels, self.width)
        kernel = self.param("kernel", flat_fan(nn.initializers.lecun_normal(), 3), shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype) if self.use_bias else None
        patches = images.reshape(batch, rows, self.patch_size[0], columns, self.patch_size[1], channels)
        dtype = jnp.dtype(self.dtype or images.dtype)
        tokens = affine(patches.transpose(0, 1, 3, 2, 4, 5), kernel, bias, dtype, jnp.dtype("float32"), 3)
        return tokens.reshape(batch, rows * columns, self.width)
