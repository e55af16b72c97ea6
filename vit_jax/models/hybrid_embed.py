"""From pixels to tokens by way of a ResNet's map (Dosovitskiy et al. 2021, section 3.1, "Hybrid architecture")."""

import flax.linen as nn
from jaxtyping import Array, Float

from vit_jax.layers.patch_embed import PatchEmbed, places
from vit_jax.models.resnet import RESNETS, ResNet
from vit_jax.models.resnet_backbone import ResNetBackbone, backbone_stride

BIT = {"bit26": (2, 2, 2, 2), "bit50": (3, 4, 6, 3), "bit101": (3, 4, 23, 3), "bit152": (3, 8, 36, 3)}
"""Units in each stage of big-transfer's ResNets (Kolesnikov et al. 2020)."""

WIDTHS = (64, 128, 256, 512)

SMALL_STEM = "_cifar"
"""Ends the names of ResNets for images of 32 pixels, whose stem keeps their size."""

BACKBONES = (*BIT, *(f"resnet{depth}" for depth in RESNETS), f"resnet18{SMALL_STEM}")
"""ResNets whose map can be cut into patches: with group norm and standardised convolutions, as in the published hybrids
(`bit…`), or with batch norm (`resnet…`)."""


class ResNetMap(ResNet):
    """The map of a ResNet's last stage, of the compute type, in place of logits."""

    num_classes: int = 0

    def __call__(
        self, images: Float[Array, "batch height width 3"], train: bool = False
    ) -> Float[Array, "batch rows columns channels"]:
        """Returns the map."""
        return self.features(images, train)


class HybridEmbed(PatchEmbed):
    """Projects patches of a ResNet's map to tokens.

    Maps `[batch, height, width, 3]` to `[batch, rows * columns, width]`, row by row, for images of any size as long as
    the patch divides the map, whose sides are the image's divided by `pixels`, rounded up.

    Attributes:
      patch_size: height and width of a patch, in places of the map.
      backbone: the ResNet, which the caller names; None where the module only tells its grid.
      pixels: from one place of the map to the next.

    Raises:
      ValueError: the patch does not divide the map.
    """

    backbone: nn.Module | None = None
    pixels: int = 16

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one patch stands for."""
        return self.patch_size[0] * self.pixels, self.patch_size[1] * self.pixels

    def grid(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the rows and columns of the tokens."""
        sides = places(image_shape, (self.pixels, self.pixels))
        for name, pixels, side, patch in zip(("height", "width"), image_shape, sides, self.patch_size, strict=True):
            if side % patch:
                raise ValueError(
                    f"image {name} {pixels} becomes {side} in the feature map, not a multiple of patch {name} {patch}"
                )
        return sides[0] // self.patch_size[0], sides[1] // self.patch_size[1]

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height_px width_px 3"], train: bool = False
    ) -> Float[Array, "batch tokens width"]:
        """Returns the tokens; with batch norms, normalised by the batch's statistics in training."""
        self.grid(images.shape[1:3])
        return super().__call__(self.backbone(images, train), train)


def map_stride(name: str, stage: int) -> int:
    """Returns the pixels from one place of the map to the next, after so many stages.

    Raises:
      ValueError: there is no such ResNet or stage.
    """
    if name not in BACKBONES:
        raise ValueError(f"resnet must be one of {', '.join(BACKBONES)}, not {name!r}")
    if not 1 <= stage <= len(WIDTHS):
        raise ValueError(f"resnet_stage must be from 1 to {len(WIDTHS)}, not {stage}")
    return backbone_stride((1,) * stage) // (4 if name.endswith(SMALL_STEM) else 1)


def make_backbone(name: str, stage: int, remat: str, **types) -> nn.Module:
    """Returns a ResNet up to one of its stages; `module(images, train)` is its map."""
    if name in BIT:
        return ResNetBackbone(BIT[name][:stage], **types)
    fields = RESNETS[name.removeprefix("resnet").removesuffix(SMALL_STEM)]
    return ResNetMap(
        depths=fields["depths"][:stage],
        widths=WIDTHS[:stage],
        bottleneck=fields["bottleneck"],
        small_stem=name.endswith(SMALL_STEM),
        remat=remat,
        **types,
    )
