"""From a file's bytes to pixels."""

import io

import numpy as np
import simplejpeg
from PIL import Image


def decode_image(encoded: bytes) -> np.ndarray:
    """Returns the image in a file as uint8 RGB `[height, width, 3]`.

    Raises:
      ValueError: the bytes are no image that libjpeg-turbo or Pillow can read.
    """
    if simplejpeg.is_jpeg(encoded):
        try:
            return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
        except ValueError:
            pass  # CMYK and other JPEGs that libjpeg-turbo does not turn into RGB; Pillow does
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.mode.startswith("I;16"):  # grey of 16 bits, which Pillow's conversion would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # of a damaged file Pillow raises OSError, SyntaxError, struct.error and others
        raise ValueError(f"not a readable image: {error}") from error
