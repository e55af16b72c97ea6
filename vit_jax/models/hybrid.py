"""The hybrid of ResNet and Vision Transformer (Dosovitskiy et al. 2021, section 3.1, "Hybrid architecture")."""

import flax.linen as nn

from vit_jax.models.hybrid_embed import HybridEmbed
from vit_jax.models.resnet_backbone import ResNetBackbone, backbone_stride
from vit_jax.models.vit import VisionTransformer


class HybridVisionTransformer(VisionTransformer):
    """A ViT whose patches are cut from the feature map of a ResNet, as published: its ResNets are none of the usual.

    The image's size is free as long as the patch divides the feature map, whose sides are the image's divided by
    `backbone_stride`, rounded up. For the map of any stage of a usual ResNet, a `VisionTransformer` has
    `patch_embed="hybrid"`, with parameters of the same names.

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

    def make_backbone(self) -> nn.Module:
        """Returns the ResNet from whose map patches are cut."""
        return ResNetBackbone(self.stages, self.stem_width, self.dtype, self.param_dtype)

    def make_embedding(self, backbone: nn.Module | None = None, **named) -> nn.Module:
        """Returns what makes tokens of an image."""
        options = {"use_bias": not self.pre_norm, "dtype": self.dtype, "param_dtype": self.param_dtype}
        pixels = backbone_stride(self.stages)
        return HybridEmbed(self.patch_size, self.width, backbone=backbone, pixels=pixels, **options, **named)
