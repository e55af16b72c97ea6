"""What happens to one image on the host: cropping, resizing, policy augmentation; a file or uint8 in, uint8 out."""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vit_jax.data import crops
from vit_jax.data.decode import JpegFile, Pixels, open_image
from vit_jax.data.policy import ColorJitter, Policy
from vit_jax.data.resize import ANTIALIASED, centre_cropped, grown_to, resized

CROPS = ("none", "center", "pad", "random", "inception", "random_resized")

ELONGATED = 16
"""How many times as long as the view a resized image may be before it is only resized where it is seen."""


@dataclasses.dataclass(frozen=True)
class Affine:
    """Bounds of a random affine map: rotation and shear in degrees, scale relative, shift as a share of the side."""

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    draws = 5

    @property
    def is_identity(self) -> bool:
        """Whether every bound is zero."""
        return not (self.rotation or self.scale or self.shear or self.shift)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], uniform: Float[np.ndarray, "5"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image under a random affine map about its centre, bilinear, black outside."""
        if self.is_identity:
            return image
        rotation, scale, shear, shift_x, shift_y = 2 * uniform - 1
        height, width = image.shape[:2]
        angle, slant = math.radians(rotation * self.rotation), math.radians(shear * self.shear)
        zoom = 1 / (1 + scale * self.scale)
        rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = zoom * rotate @ np.array([[1.0, math.tan(slant)], [0.0, 1.0]])
        centre = np.array([width, height]) / 2
        offset = centre - matrix @ (centre + np.array([shift_x * width, shift_y * height]) * self.shift)
        coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
        moved = Image.fromarray(image).transform(
            (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
        )
        return np.asarray(moved)


@dataclasses.dataclass(frozen=True)
class HostTransform:
    """Turns an image of any size into one of `size` pixels (height, width).

    Attributes:
      crop: of training. `none` squashes the whole image to `size`; `center` is the view of evaluation; `pad` shifts
        within a black border of `pad` pixels; `random` resizes to `size` + 2 `pad` and takes a window; `inception`
        and `random_resized` take a part of random area and aspect ratio, as Google's and torchvision's recipes do.
      resize: short side before the centre crop of evaluation; None squashes the whole image to `size`.
      antialias: whether the filter grows as the image shrinks (Pillow, torchvision) or not (TensorFlow's default).

    Raises:
      ValueError: a choice is unknown, or `resize` is less than `size`.
    """

    size: tuple[int, int]
    crop: str = "none"
    pad: int = 4
    area: tuple[float, float] = (0.05, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    affine: Affine = Affine()
    jitter: ColorJitter = dataclasses.field(default_factory=ColorJitter)
    policy: Policy = dataclasses.field(default_factory=Policy)
    resize: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self):
        if self.crop not in CROPS:
            raise ValueError(f"augment.crop must be one of {', '.join(CROPS)}, not {self.crop!r}")
        if self.resize is not None and self.resize < min(self.size):
            raise ValueError(f"data.resize {self.resize} is less than the image size {self.size[0]}x{self.size[1]}")
        if self.interpolation not in ANTIALIASED:
            raise ValueError(f"data.interpolation must be one of {', '.join(ANTIALIASED)}, not {self.interpolation!r}")

    @functools.cached_property
    def draws(self) -> int:
        """How many uniform numbers decide one training view."""
        return crops.DRAWS + self.affine.draws + self.jitter.draws + self.policy.draws

    def train(
        self, image: bytes | UInt8[np.ndarray, "h w 3"], uniform: Float[np.ndarray, "draws"]
    ) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns one random view of an image or an image file; `uniform` are the `draws` numbers that decide it.

        Raises:
          UnreadableImage: the file cannot be decoded.
        """
        view = self.cropped(open_image(image), uniform[: crops.DRAWS])
        place = crops.DRAWS
        for part in (self.affine, self.policy, self.jitter):
            view = part(view, uniform[place : place + part.draws])
            place += part.draws
        return view

    def cropped(self, image: Pixels | JpegFile, uniform: Float[np.ndarray, "draws"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns the crop of a training view, at `size`."""
        if self.crop == "center":
            return self.centred(image)
        if self.crop == "random":
            grown = (self.size[0] + 2 * self.pad, self.size[1] + 2 * self.pad)
            left, top, right, bottom = crops.placed(grown, self.size, uniform)
            return self.part(image, whole(image), grown)[top:bottom, left:right]
        if self.crop in ("inception", "random_resized"):
            draw = crops.inception_box if self.crop == "inception" else crops.random_resized_box
            return self.part(image, draw(image.shape, self.area, self.aspect, uniform), self.size)
        view = self.part(image, whole(image), self.size)
        return crops.shifted(view[None], np.zeros(1, int), self.pad, uniform[None])[0] if self.crop == "pad" else view

    def part(self, image: Pixels | JpegFile, box: crops.Corners, size: tuple[int, int]) -> np.ndarray:
        """Returns a box of an image, resized."""
        pixels, inside = image.region(box, size)
        return resized(pixels, size, self.interpolation, self.antialias, inside)

    @property
    def only_moves_pixels(self) -> bool:
        """Whether training views of images that have `size` already are those images, at most shifted."""
        plain = self.affine.is_identity and self.policy.name == "none" and not self.jitter.strength
        return plain and self.crop in ("none", "pad")

    def train_batch(
        self, images: UInt8[np.ndarray, "rows h w 3"], rows: np.ndarray, uniform: Float[np.ndarray, "b draws"]
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns `train` of each of some rows, where `only_moves_pixels`, at the speed of copying."""
        return images[rows] if self.crop == "none" else crops.shifted(images, rows, self.pad, uniform)

    def evaluate(self, image: bytes | UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns the one view that evaluation and inference see.

        Raises:
          UnreadableImage: the file cannot be decoded.
        """
        return self.centred(open_image(image))

    def centred(self, image: Pixels | JpegFile) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns the evaluation view of an opened image."""
        grown = self.size if self.resize is None else grown_to(image.shape, self.resize, self.size)
        if max(grown) > ELONGATED * max(self.size):
            return self.middle(image, grown)
        # Shrinking while decoding is not the filter that was asked for: leave that filter at least half of the work.
        pixels, inside = image.region(whole(image), (2 * grown[0], 2 * grown[1]))
        return centre_cropped(resized(pixels, grown, self.interpolation, self.antialias, inside), self.size)

    def middle(self, image: Pixels | JpegFile, grown: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Returns what `centred` does, without the parts of the resized image that the crop takes away: of an image of
        1x100,000 pixels it would have 20 GB.
        """
        pixels, (left, top, right, bottom) = image.region(whole(image), (2 * grown[0], 2 * grown[1]))
        y, x = (round((have - want) / 2) for have, want in zip(grown, self.size, strict=True))
        high, wide = (bottom - top) / grown[0], (right - left) / grown[1]  # of a pixel of the resized image
        box = left + x * wide, top + y * high, left + (x + self.size[1]) * wide, top + (y + self.size[0]) * high
        antialias = self.antialias or wide < 1  # where pixels grow the filters are alike, and need parts of a pixel
        return resized(pixels, self.size, self.interpolation, antialias, box)


def whole(image: Pixels | JpegFile) -> crops.Corners:
    """Returns the box that is all of an image."""
    height, width = image.shape
    return 0, 0, width, height
