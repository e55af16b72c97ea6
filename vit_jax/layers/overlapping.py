"""From pixels to tokens by patches that overlap (Wang et al. 2022, "PVT v2", section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from vit_jax.layers.patch_embed import PatchEmbed, grid_shape
from vit_jax.layers.product import PRODUCT


class OverlappingEmbed(PatchEmbed):
    """Projects image patches, one every `patch_stride` pixels, to tokens.

    Maps `[batch, height, width, channels]` to `[batch, rows * columns, width]`, row by row, where rows are height /
    stride: the image is padded by zeros, patch size - stride in all, the larger half of an odd number at the lower and
    right border. The parameters are those of `PatchEmbed`, which it equals where the stride is the patch size.

    Attributes:
      patch_stride: from the beginning of one patch to that of the next, in pixels; at most the patch size.

    Raises:
      ValueError: the stride does not divide the image's sides, or is larger than the patch.
    """

    patch_stride: tuple[int, int] = (8, 8)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.patch_stride

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens; see `grid_shape`."""
        if any(not 0 < stride <= patch for stride, patch in zip(self.patch_stride, self.patch_size, strict=True)):
            raise ValueError(f"patch_stride {self.patch_stride} must be from 1 to patch_size {self.patch_size}")
        return grid_shape(image_shape, self.patch_stride, "patch stride")

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height_px width_px channels"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens, the same in training as in evaluation."""
        rows, columns = self.grid(images.shape[1:3])
        kernel, bias = self.weights(self.patch_size, images.shape[-1])
        dtype = jnp.dtype(self.dtype or images.dtype)
        over = [patch - stride for patch, stride in zip(self.patch_size, self.patch_stride, strict=True)]
        tokens = jax.lax.conv_general_dilated(
            images.astype(dtype),
            kernel.astype(dtype),
            self.patch_stride,
            [(pixels // 2, pixels - pixels // 2) for pixels in over],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype(jnp.float32)
        tokens = checkpoint_name(tokens if bias is None else tokens + bias.astype(jnp.float32), PRODUCT)
        return tokens.reshape(images.shape[0], rows * columns, self.width)
