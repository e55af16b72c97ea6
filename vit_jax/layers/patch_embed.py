"""From pixels to tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.layers.dense import flat_fan
from vit_jax.layers.product import affine
from vit_jax.layers.types import DTypeLike


def grid_shape(image_shape: tuple[int, int], patch_size: tuple[int, int], what: str = "patch") -> tuple[int, int]:
    """Returns the rows and columns of the patch grid.

    Args:
      what: `patch_size` is the size of, as a message names it.

    Raises:
      ValueError: the image's height or width is not a multiple of the patch's.
    """
    for name, side, patch in zip(("height", "width"), image_shape, patch_size, strict=True):
        if side % patch:
            raise ValueError(f"image {name} {side} is not a multiple of {what} {name} {patch}")
    return image_shape[0] // patch_size[0], image_shape[1] // patch_size[1]


def places(image_shape: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of a map with so many pixels from one place to the next, rounded up."""
    return -(-image_shape[0] // stride[0]), -(-image_shape[1] // stride[1])


def in_patches(
    images: Float[Array, "batch height_px width_px channels"], patch_size: tuple[int, int]
) -> Float[Array, "batch patches patch_height patch_width channels"]:
    """Returns the patches of images, row by row.

    Raises:
      ValueError: the image's height or width is not a multiple of the patch's.
    """
    batch, *sides, channels = images.shape
    rows, columns = grid_shape(tuple(sides), patch_size)
    patches = images.reshape(batch, rows, patch_size[0], columns, patch_size[1], channels)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, *patch_size, channels)


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

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.patch_size

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens; see `grid_shape`."""
        return grid_shape(image_shape, self.patch_size)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height_px width_px channels"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens, the same in training as in evaluation."""
        patches = in_patches(images, self.patch_size)
        return self.embedded(patches, *self.weights(self.patch_size, images.shape[-1]))

    def weights(
        self, patch_size: tuple[int, int], channels: int
    ) -> tuple[Float[Array, "patch_height patch_width channels width"], Float[Array, "width"] | None]:
        """Returns the kernel for patches of that size, and the bias or None."""
        shape = (*patch_size, channels, self.width)
        kernel = self.param("kernel", flat_fan(nn.initializers.lecun_normal(), 3), shape, self.param_dtype)
        return kernel, self.param(
            "bias", nn.initializers.zeros, (self.width,), self.param_dtype
        ) if self.use_bias else None

    def embedded(
        self,
        patches: Float[Array, "batch tokens patch_height patch_width channels"],
        kernel: Float[Array, "patch_height patch_width channels width"],
        bias: Float[Array, "width"] | None,
    ) -> Float[Array, "batch tokens width"]:
        """Returns the product of every patch with the kernel."""
        return affine(patches, kernel, bias, jnp.dtype(self.dtype or patches.dtype), jnp.dtype("float32"), 3)


class PlacedEmbed(PatchEmbed):
    """A patch embedding whose tokens' positions are made of those of another grid, `position_grid`.

    In place of a call it has `placed(images, positions)`, which returns the tokens with their positions, the rows and
    columns of a grid, and row and column of each token in it, or None where they fill it row by row.
    """
