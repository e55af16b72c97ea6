"""From pixels to tokens by patches of any size with one set of weights (Beyer et al. 2023, "FlexiViT")."""

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.layers.patch_embed import PlacedEmbed, in_patches, places
from vit_jax.layers.patch_resize import resize_patches, resize_positions


class FlexibleEmbed(PlacedEmbed):
    """Projects non-overlapping image patches to tokens, by a kernel that is resized to them.

    Maps `[batch, height, width, channels]` to `[batch, rows * columns, width]`, row by row. The kernel and the position
    embeddings are learned for patches of one underlying size, `patch_base`; the kernel is resized to `patch_size` by
    the pseudo-inverse (eq. 2 of the paper), the positions linearly to the grid. With patches of the underlying size it
    equals `PatchEmbed`. Which size a training step has is drawn by the step (`VisionTransformer.training_variants`).

    Attributes:
      patch_size: of the images here.
      patch_base: that of the parameters.

    Raises:
      ValueError: the image's height or width is not a multiple of the patch size.
    """

    patch_base: tuple[int, int] = (32, 32)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one place of the position embeddings stands for."""
        return self.patch_base

    def position_grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the position embeddings."""
        return places(image_shape, self.patch_base)

    @nn.compact
    def placed(
        self, images: Float[Array, "batch height_px width_px channels"], positions: Float[Array, "1 places width"]
    ) -> tuple[Float[Array, "batch tokens width"], tuple[int, int], None]:
        """Returns the tokens with their positions, the rows and columns of their grid, and None: they fill it.

        Args:
          positions: of the underlying patches of the whole image, row by row.
        """
        kernel, bias = self.weights(self.patch_base, images.shape[-1])
        tokens = self.embedded(in_patches(images, self.patch_size), resize_patches(kernel, self.patch_size), bias)
        sides = images.shape[1:3]
        grid = self.grid(sides)
        return tokens + resize_positions(positions, self.position_grid(sides), grid), grid, None
