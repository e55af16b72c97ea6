"""Decoding: every usual kind of image file becomes uint8 RGB, and anything else is a ValueError."""

import io

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.decode import decode_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def plain_jpeg(mode: str, colour) -> bytes:
    return encoded(Image.new(mode, (16, 8), colour), "JPEG", quality=95)


@pytest.mark.parametrize(
    ("file", "colour"),
    [
        (plain_jpeg("RGB", (200, 30, 60)), (200, 30, 60)),
        (plain_jpeg("L", 99), (99, 99, 99)),
        (encoded(Image.new("RGB", (16, 8), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95), (200, 30, 60)),
    ],
    ids=["rgb", "grey", "cmyk"],
)
def test_jpeg(file, colour):
    image = decode_image(file)
    assert image.shape == (8, 16, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - colour).max() <= 4


def test_jpeg_keeps_the_place_of_colours():
    marked = np.zeros((32, 48, 3), np.uint8)
    marked[:16, :, 0], marked[16:, 24:, 2] = 255, 255
    image = decode_image(encoded(Image.fromarray(marked), "JPEG", quality=95, subsampling=0))
    assert np.abs(image.astype(int) - marked).mean() < 2


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)),
        (Image.fromarray(np.dstack([RGB, GREY])), RGB),
        (Image.fromarray(np.dstack([GREY, RGB[..., 1]]), "LA"), np.repeat(GREY[..., None], 3, 2)),
        (Image.fromarray(GREY > 99), np.repeat(np.uint8(255) * (GREY > 99)[..., None], 3, 2)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 77), np.repeat(GREY[..., None], 3, 2)),
    ],
    ids=["rgb", "grey", "rgba", "grey-alpha", "bits", "16-bit-grey"],
)
def test_png_is_exact(picture, expected):
    image = decode_image(encoded(picture, "PNG"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palette_becomes_its_colours(file_format):
    colours = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], np.uint8)
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.ravel().tolist())
    np.testing.assert_array_equal(decode_image(encoded(picture, file_format)), colours[indices])


JPEG, PNG = plain_jpeg("RGB", (200, 30, 60)), encoded(Image.fromarray(RGB), "PNG")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"no image at all", bytes(range(256)), JPEG[:3] + b"\0" * 100, JPEG[: len(JPEG) // 2], PNG[:20], PNG[:-40]],
    ids=["empty", "text", "bytes", "jpeg-header", "half-jpeg", "png-header", "half-png"],
)
def test_garbage_is_a_value_error(garbage):
    with pytest.raises(ValueError, match="not a readable image"):
        decode_image(garbage)


@pytest.mark.parametrize("file", [JPEG, PNG], ids=["jpeg", "png"])
def test_damaged_files_raise_nothing_but_value_error(file):
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(file)
        for place in random.integers(0, len(damaged), 4):
            damaged[place] = random.integers(0, 256)
        try:
            assert decode_image(bytes(damaged)).shape[2] == 3
        except ValueError:
            refused += 1
    assert refused > 0
