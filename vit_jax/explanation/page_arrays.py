"""What the interactive page holds, and how its numbers are packed: 8 bits each, a scale a row, deflated, as text."""

import base64
import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~"
"""RFC 1924's, with `,` and `.` for `<` and `&`, so that no text of it begins a tag.

Base 85 takes 5 letters for 4 bytes where base 64 takes 4 for 3: with it the maps of a ViT-B/16 stay below 8 MB even
where they cannot be deflated at all.
"""

SCALE_BITS = 12
"""Bits of a scale's mantissa that are left 0, for which deflating takes no room; scales are rounded up to that."""


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """A class of the model, its probability for an image, and what in the image speaks for it."""

    index: int
    name: str
    probability: float
    relevance: Float[np.ndarray, "rows columns"]


@dataclasses.dataclass(frozen=True)
class PageImage:
    """An image as the model sees it, and its maps; no number of them is negative.

    Attributes:
      attention: of each layer and head, from each token (a row) to each token.
      rollout: of the first layers up to each layer, from each token to each token.
      classes: may be none.
    """

    name: str
    pixels: UInt8[np.ndarray, "height width 3"]
    attention: Float[np.ndarray, "layers heads tokens tokens"]
    rollout: Float[np.ndarray, "layers tokens tokens"]
    classes: Sequence[ClassMap] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """What one page shows: images of one model.

    Attributes:
      grid: rows and columns of patches, which are the last tokens.
      prefix: names of the tokens before them.
      notes: what a person should know of the numbers, a sentence each.
    """

    title: str
    subtitle: str
    grid: tuple[int, int]
    prefix: Sequence[str]
    images: Sequence[PageImage]
    notes: Sequence[str] = ()


def quantised(values: Float[np.ndarray, "... n"]) -> tuple[UInt8[np.ndarray, "... n"], Float32[np.ndarray, "..."]]:
    """Returns rows in 8 bits, and the number that 255 stands for in each: its largest, or a hair more.

    Raises:
      ValueError: a number is negative, infinite or none.
    """
    values = np.asarray(values, np.float32)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("maps must be finite and not negative")
    below = np.uint32((1 << SCALE_BITS) - 1)
    scales = ((values.max(axis=-1).view(np.uint32) + below) & ~below).view(np.float32)
    shares = values / np.where(scales > 0, scales, 1)[..., None]
    return np.rint(255 * shares).astype(np.uint8), scales


def packed(image: PageImage) -> tuple[str, dict[str, object]]:
    """Returns an image's maps as text, and what tells how to read it: the number of deflated bytes, and the parts."""
    maps = {"attention": image.attention, "rollout": image.rollout}
    if image.classes:
        maps["relevance"] = np.stack([found.relevance.ravel() for found in image.classes])
    bytes_of, scales_of = {}, {}
    for name, values in maps.items():
        bytes_of[name], scales_of[f"{name}_scales"] = quantised(values)
    arrays = {**scales_of, **bytes_of}  # numbers of 4 bytes first: they must begin at multiples of 4
    parts = [{"name": name, "type": str(array.dtype), "size": array.size} for name, array in arrays.items()]
    raw = b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for array in arrays.values())
    deflated = zlib.compress(raw, 6)  # at 9 up to a sixth smaller, and several times slower
    return base85(deflated), {"length": len(deflated), "parts": parts}


def base85(data: bytes) -> str:
    """Returns bytes as text, filled up with zeros to a multiple of 4."""
    text = base64.b85encode(data + bytes(-len(data) % 4))
    return text.translate(bytes.maketrans(b"<&", b",.")).decode("ascii")
