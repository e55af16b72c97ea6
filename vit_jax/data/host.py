"""What happens to one image on the host: resizing, cropping, affine jitter; uint8 in, uint8 out."""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Pillow's filters, which antialias when they shrink."""

CROP_ATTEMPTS = 10
DRAWS = 2 + 2 * CROP_ATTEMPTS + 5
"""Uniform numbers an image needs: two for a place, two an attempt at an inception crop, five for the affine map."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """Bounds of a random affine map: rotation and shear in degrees, scale relative, shift as a share of the side."""

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether every bound is zero."""
        return not (self.rotation or self.scale or self.shear or self.shift)


@dataclasses.dataclass(frozen=True)
class HostTransform:
    """Turns an image of any size into one of `size` pixels (height, width).

    Attributes:
      crop: `none`, `pad`, `random` or `inception`, in training.
      resize: short side before the centre crop of evaluation; None squashes the whole image to `size`.
    """

    size: tuple[int, int]
    crop: str = "none"
    pad: int = 4
    area: tuple[float, float] = (0.05, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    affine: Affine = Affine()
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.crop not in ("none", "pad", "random", "inception"):
            raise ValueError(f"augment.crop must be none, pad, random or inception, not {self.crop!r}")
        if self.resize is not None and self.resize < min(self.size):
            raise ValueError(f"data.resize {self.resize} is less than the image size {self.size[0]}x{self.size[1]}")
        if self.interpolation not in INTERPOLATION:
            raise ValueError(
                f"data.interpolation must be one of {', '.join(INTERPOLATION)}, not {self.interpolation!r}"
            )

    def train(
        self, image: UInt8[np.ndarray, "h w 3"], uniform: Float[np.ndarray, "draws"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns one random view; `uniform` are the `DRAWS` numbers that decide it."""
        if self.crop == "inception":
            box = inception_box(image.shape[:2], self.area, self.aspect, uniform)
            image = resized(image, self.size, self.interpolation, box)
        elif self.crop == "random":
            grown = (self.size[0] + 2 * self.pad, self.size[1] + 2 * self.pad)
            image = placed_crop(resized(image, grown, self.interpolation), self.size, uniform)
        else:
            image = resized(image, self.size, self.interpolation)
            if self.crop == "pad":
                border = ((self.pad, self.pad), (self.pad, self.pad), (0, 0))
                image = placed_crop(np.pad(image, border), self.size, uniform)
        return image if self.affine.is_identity else affine_jitter(image, self.affine, uniform[-5:])

    def evaluate(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the one view that evaluation and inference see."""
        if self.resize is None:
            return resized(image, self.size, self.interpolation)
        height, width = image.shape[:2]
        scale = self.resize / min(height, width)
        grown = (max(round(height * scale), self.size[0]), max(round(width * scale), self.size[1]))
        image = resized(image, grown, self.interpolation)
        top, left = (round((have - want) / 2) for have, want in zip(grown, self.size, strict=True))
        return image[top : top + self.size[0], left : left + self.size[1]]


def resized(
    image: UInt8[np.ndarray, "h w 3"],
    size: tuple[int, int],
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image, or the box (left, top, right, bottom) of it, at `size` (height, width)."""
    if box is None and image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], INTERPOLATION[interpolation], box=box))


def placed_crop(image: np.ndarray, size: tuple[int, int], uniform: np.ndarray) -> np.ndarray:
    """Returns the crop whose place the first two numbers choose."""
    top, left = (int(u * (have - want + 1)) for u, have, want in zip(uniform, image.shape[:2], size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def inception_box(
    shape: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], uniform: np.ndarray
) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a crop with random area and aspect ratio (Szegedy et al. 2015).

    The aspect ratio is drawn uniformly in its logarithm. When no attempt fits, the largest centred crop whose aspect
    ratio is allowed is taken, as torchvision's RandomResizedCrop does.
    """
    height, width = shape
    for attempt in range(CROP_ATTEMPTS):
        u_area, u_aspect = uniform[2 + 2 * attempt : 4 + 2 * attempt]
        target = height * width * (area[0] + u_area * (area[1] - area[0]))
        ratio = math.exp(math.log(aspect[0]) + u_aspect * (math.log(aspect[1]) - math.log(aspect[0])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(uniform[0] * (height - h + 1)), int(uniform[1] * (width - w + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


def affine_jitter(image: UInt8[np.ndarray, "h w 3"], bounds: Affine, uniform: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image under a random affine map about its centre, bilinear, black outside."""
    rotation, scale, shear, shift_x, shift_y = 2 * uniform - 1
    height, width = image.shape[:2]
    angle, slant = math.radians(rotation * bounds.rotation), math.radians(shear * bounds.shear)
    zoom = 1 / (1 + scale * bounds.scale)
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = zoom * rotate @ np.array([[1.0, math.tan(slant)], [0.0, 1.0]])
    centre = np.array([width, height]) / 2
    offset = centre - matrix @ (centre + np.array([shift_x * width, shift_y * height]) * bounds.shift)
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    pixels = Image.fromarray(image)
    return np.asarray(
        pixels.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    )
