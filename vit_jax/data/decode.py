"""From a file's bytes to pixels, as image viewers show them."""

import dataclasses
import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vit_jax.data.exif import upright
from vit_jax.data.jpeg import FACTORS, Header, decode_region, read_header

MAX_PIXELS = 178_956_970
"""More are taken for a decompression bomb and refused; Pillow's own limit."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may take a file for: photographs and drawings, not documents that it hands to other programs."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


class UnreadableImage(ValueError):
    """The bytes are no image that can be decoded; the message says why."""


@dataclasses.dataclass
class Pixels:
    """An image in memory, uint8 `[height, width, 3]`."""

    array: UInt8[np.ndarray, "h w 3"]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.array.shape[:2]

    def region(self, box: tuple[int, int, int, int], least: tuple[int, int]) -> tuple[np.ndarray, Box]:
        """Returns an array and where in it the box lies."""
        return self.array, box


@dataclasses.dataclass
class JpegFile:
    """A JPEG file that is decoded where it is needed, and no finer than it is needed."""

    encoded: bytes
    header: Header

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, as stored."""
        return self.header.height, self.header.width

    def region(self, box: tuple[int, int, int, int], least: tuple[int, int]) -> tuple[np.ndarray, Box]:
        """Returns pixels that hold a box, and where in them it lies.

        Args:
          box: left, top, right, bottom.
          least: height and width in pixels that the box must still have after shrinking.

        Returns:
          An array that this thread's next image may overwrite, and the box in it.

        Raises:
          UnreadableImage: the file is damaged.
        """
        height, width = box[3] - box[1], box[2] - box[0]
        factor = next((f for f in FACTORS if height >= f * least[0] and width >= f * least[1]), 1)
        try:
            return decode_region(self.encoded, box, factor)
        except ValueError:
            pixels = decoded_by_pillow(self.encoded)
            if pixels.shape[:2] != self.shape:  # turned by metadata that only Pillow reads
                raise UnreadableImage("not a readable image: damaged, and of two orientations") from None
            return pixels, box


def open_image(image: bytes | UInt8[np.ndarray, "h w 3"]) -> Pixels | JpegFile:
    """Returns an image whose size is known and whose pixels are decoded as late and as little as possible.

    Raises:
      UnreadableImage: the bytes are no image, or one of more than `MAX_PIXELS` pixels.
    """
    if isinstance(image, np.ndarray):
        return Pixels(image)
    if not simplejpeg.is_jpeg(image):
        return Pixels(decoded_by_pillow(image))
    try:
        header = read_header(image)
    except ValueError:  # damaged, CMYK or of 12 bits: Pillow reads some of these
        return Pixels(decoded_by_pillow(image))
    require_size(header.height, header.width)
    if header.orientation == 1:
        return JpegFile(image, header)
    try:
        stored, _ = decode_region(image, (0, 0, header.width, header.height))
    except ValueError:
        return Pixels(decoded_by_pillow(image))
    return Pixels(upright(stored, header.orientation))


def decode_image(image: bytes | UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the whole image in a file as RGB, an array of its own; an array is returned as it is.

    Raises:
      UnreadableImage: the bytes are no image, or one of more than `MAX_PIXELS` pixels.
    """
    if isinstance(image, np.ndarray):
        return image
    opened = open_image(image)
    height, width = opened.shape
    pixels, _ = opened.region((0, 0, width, height), (height, width))
    return pixels.copy() if isinstance(opened, JpegFile) else pixels


def require_size(height: int, width: int) -> None:
    """Raises `UnreadableImage` for a decompression bomb."""
    if height * width > MAX_PIXELS:
        raise UnreadableImage(f"{width}x{height} pixels are more than {MAX_PIXELS:,}: refused as a decompression bomb")


def decoded_by_pillow(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image in a file of any format that Pillow knows: turned by its EXIF data, the first frame of an
    animation, grey and palettes expanded, 16 bits cut to 8, transparent parts over white.

    Raises:
      UnreadableImage: Pillow cannot read it.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return as_seen(image)
    except UnreadableImage:
        raise
    except Exception as error:  # of a damaged file Pillow raises OSError, SyntaxError, struct.error and others
        reason = " ".join(str(error).split()).partition(" <_io.BytesIO")[0]
        raise UnreadableImage(f"not a readable image: {reason}") from error


def as_seen(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of an opened image as viewers show it (see `decoded_by_pillow`).

    Raises:
      UnreadableImage: it has more than `MAX_PIXELS` pixels.
    """
    require_size(image.height, image.width)
    return np.asarray(_flattened(_eight_bits(ImageOps.exif_transpose(image))))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Cuts grey of 16 bits, which Pillow's conversion would clip at 255, and spreads grey of floats from 0 to 1."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        shift = 8 if image.mode != "I" or values.max(initial=0) > 255 else 0
        return Image.fromarray(np.clip(values >> shift, 0, 255).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.max(initial=0) <= 1 else 1
        return Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))
    return image


def _flattened(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
