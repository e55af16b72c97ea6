"""What an image goes through before a model sees it in evaluation; it travels with the weights."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from vit_jax.data.host import HostTransform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
