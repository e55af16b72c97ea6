"""What an image goes through before a model sees it in evaluation; it travels with the weights."""

import dataclasses
from numbers import Integral, Real

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data.host import HostTransform
from vit_jax.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MAX_SIDE = 2**15
"""Pixels; no image that a model sees is higher or wider."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation.

    Attributes:
      size: height and width that the model sees, in pixels.
      resize: short side before the centre crop; None squashes the whole image to `size`.
      interpolation: nearest, bilinear, bicubic or lanczos.
      antialias: whether the filter grows as the image shrinks (Pillow, torchvision) or not (TensorFlow's default).
      mean, std: of the pixels in [0, 1], channel by channel: (pixel - mean) / std.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        """Raises a `UserError` where a size, the mean or the deviation cannot be that of any images."""
        if len(self.size) != 2 or not all(isinstance(side, Integral) and 1 <= side <= MAX_SIDE for side in self.size):
            raise UserError(f"an image size must be two whole numbers from 1 to {MAX_SIDE}, not {self.size!r}")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            real = len(numbers) == 3 and all(isinstance(number, Real) and abs(number) < 1e6 for number in numbers)
            if not real or (name == "std" and not all(numbers)):
                raise UserError(f"{name} must be a number for each of the channels red, green, blue, not {numbers!r}")

    def transform(self) -> HostTransform:
        """Returns the resize and the crop.

        Raises:
          ValueError: `resize` is less than `size`, or a choice is unknown.
        """
        return HostTransform(self.size, resize=self.resize, interpolation=self.interpolation, antialias=self.antialias)

    def normalised(self, images: UInt8[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
        """Returns the pixels as the model takes them, float32."""
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (images.astype(np.float32) / 255 - mean) / std

    def at_size(self, size: tuple[int, int]) -> "Preprocessing":
        """Returns the same for another image size, the share of the image that the crop keeps unchanged."""
        resize = self.resize and round(self.resize * min(size) / min(self.size))
        return dataclasses.replace(self, size=size, resize=resize)
