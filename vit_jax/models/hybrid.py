"""The hybrid of ResNet and Vision Transformer (Dosovitskiy et al. 2021, section 3.1, "Hybrid architecture")."""

import math

from jaxtyping import Array, Float

from vit_jax.models.resnet_backbone import ResNetBackbone, backbone_stride
from vit_jax.models.vit import VisionTransformer


class HybridVisionTransformer(VisionTransformer):
    """A ViT whose patches are cut from the feature map of a ResNet instead of from the image.

    The image's size is free as long as the patch divides the feature map, whose sides are the image's divided by
    `backbone_stride`, rounded up.

    Attributes:
      patch_size: height and width of a patch, in places of the feature map.
      stages: units in each of the ResNet's stages; without any, its root alone stands before the ViT (R+Ti/16).
      stem_width: channels of the ResNet's root, a multiple of 32; 64 in all published models.

    Raises:
      ValueError: the patch does not divide the feature map, or a field's value does not fit.
    """

    patch_size: tuple[int, int] = (1, 1)
    stages: tuple[int, ...] = (3, 4, 9)
    stem_width: int = 64

    def setup(self):
        if self.patch_embed != "linear":
            raise ValueError(
                f"a hybrid cuts patches from a ResNet's map: patch_embed must be linear, not {self.patch_embed!r}"
            )
        super().setup()
        self.backbone = ResNetBackbone(self.stages, self.stem_width, self.dtype, self.param_dtype)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one patch stands for."""
        pixels = backbone_stride(self.stages)
        return self.patch_size[0] * pixels, self.patch_size[1] * pixels

    def patches(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch patches width"], tuple[int, int]]:
        """Returns the embedded patches of the feature map, row by row, and the rows and columns of their grid."""
        grid = []
        for name, pixels, patch in zip(("height", "width"), images.shape[1:3], self.patch_size, strict=True):
            side = math.ceil(pixels / backbone_stride(self.stages))
            if side % patch:
                raise ValueError(
                    f"image {name} {pixels} becomes {side} in the feature map, not a multiple of patch {name} {patch}"
                )
            grid.append(side // patch)
        return self.embedding(self.backbone(images)), (grid[0], grid[1])
