"""Decoding: every usual kind of image file becomes uint8 RGB, as viewers show it."""

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps, features

from vit_jax.data.decode import decode_image, open_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), dtype=np.uint16)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 15) + np.cos(y / 21), np.cos(x / 27) - np.sin(y / 12), np.sin((x + y) / 24)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


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


def test_jpeg_is_an_array_of_its_own():
    first = decode_image(plain_jpeg("RGB", (200, 30, 60)))
    kept = first.copy()
    decode_image(plain_jpeg("RGB", (10, 200, 160)))
    np.testing.assert_array_equal(first, kept)


def grey_jpeg(horizontal: int, vertical: int) -> bytes:
    """Returns 20x50 pixels of grey 128 with chroma of so many times fewer columns and rows, coded by hand.

    Every block is "no difference to the last, and nothing else": 00 1010 of brightness, 00 00 of colour.
    """
    plain = simplejpeg.encode_jpeg(np.full((20, 50, 3), 128, np.uint8), 90, "RGB", "444")
    head = bytearray(plain[: plain.index(b"\xff\xda") + 14])
    head[head.index(b"\xff\xc0") + 11] = horizontal * 16 + vertical
    bits = ("001010" * horizontal * vertical + "0000" * 2) * -(-50 // (8 * horizontal)) * -(-20 // (8 * vertical))
    bits += "1" * (-len(bits) % 8)
    return bytes(head) + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\xff\xd9"


@pytest.mark.parametrize("sampling", [(1, 1), (2, 2), (3, 1), (4, 2), (1, 3)])
def test_jpeg_of_any_subsampling(sampling):
    opened = open_image(grey_jpeg(*sampling))
    pixels, _ = opened.region((3, 3, 9, 9), (1, 1))
    assert (opened.shape, decode_image(grey_jpeg(*sampling)).shape) == ((20, 50), (20, 50, 3))
    assert (decode_image(grey_jpeg(*sampling)) == 128).all()
    assert (pixels == 128).all()


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_extreme_shapes(shape, file_format):
    image = decode_image(encoded(Image.fromarray(np.full((*shape, 3), 77, np.uint8)), file_format))
    assert image.shape == (*shape, 3)
    assert np.abs(image.astype(int) - 77).max() <= 1


def test_arrays_pass_through():
    assert decode_image(RGB) is RGB
    assert open_image(RGB).shape == (5, 7)
    assert open_image(RGB).region((1, 2, 3, 4), (1, 1)) == (RGB, (1, 2, 3, 4))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "GIF"])
def test_lossless_formats_are_exact(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(RGB), file_format, **options)), RGB)


@pytest.mark.parametrize("file_format", ["AVIF", "MPO"])
def test_formats_of_cameras(file_format):
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    picture = smooth(40, 60)
    image = decode_image(encoded(Image.fromarray(picture), file_format, quality=95))
    assert np.abs(image.astype(int) - picture).mean() < 2


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), np.repeat(GREY[..., None], 3, 2)),
        (Image.fromarray(GREY > 99), np.repeat(np.uint8(255) * (GREY > 99)[..., None], 3, 2)),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 77), np.repeat(GREY[..., None], 3, 2)),
    ],
    ids=["rgb", "grey", "bits", "16-bit-grey"],
)
def test_png_is_exact(picture, expected):
    image = decode_image(encoded(picture, "PNG"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def png_by_hand(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_16_bit_rgb_png_keeps_the_high_bytes():
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)
    np.testing.assert_array_equal(decode_image(png_by_hand(7, 5, 16, 2, rows)), (DEEP >> 8).astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        ([[0.0, 0.5, 1.0]], [0, 128, 255]),
        ([[0.0, 100.4, 255.0]], [0, 100, 255]),
        ([[-3.0, np.nan, 300.0]], [0, 0, 255]),
        ([[np.nan, 0.2, 1.0]], [0, 51, 255]),
    ],
    ids=["to 1", "to 255", "beyond", "to 1 with a hole"],
)
def test_tiff_of_floats(values, grey):
    image = decode_image(encoded(Image.fromarray(np.array(values, np.float32)), "TIFF"))
    np.testing.assert_array_equal(image, np.repeat(np.uint8([grey])[..., None], 3, 2))


@pytest.mark.parametrize(("values", "grey"), [([[0, 77, 255]], [0, 77, 255]), ([[0, 65535, 25700]], [0, 255, 100])])
def test_tiff_of_32_bit_integers(values, grey):
    image = decode_image(encoded(Image.fromarray(np.array(values, np.int32)), "TIFF"))
    np.testing.assert_array_equal(image, np.repeat(np.uint8([grey])[..., None], 3, 2))


COLOURS = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], np.uint8)
INDICES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def palette_image() -> Image.Image:
    picture = Image.fromarray(INDICES, "P")
    picture.putpalette(COLOURS.ravel().tolist())
    return picture


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palette_becomes_its_colours(file_format):
    np.testing.assert_array_equal(decode_image(encoded(palette_image(), file_format)), COLOURS[INDICES])


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_over_white(file_format):
    alpha = np.resize(np.uint8([0, 40, 128, 255]), (5, 7))
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = decode_image(encoded(Image.fromarray(np.dstack([RGB, alpha])), file_format, **options))
    assert np.abs(image - over_white(RGB, alpha)).max() <= 1
    assert (image[alpha == 0] == 255).all()
    np.testing.assert_array_equal(image[alpha == 255], RGB[alpha == 255])


def test_grey_with_alpha():
    alpha = np.resize(np.uint8([0, 40, 128, 255]), (5, 7))
    image = decode_image(encoded(Image.fromarray(np.dstack([GREY, alpha]), "LA"), "PNG"))
    assert np.abs(image - over_white(np.repeat(GREY[..., None], 3, 2), alpha)).max() <= 1


@pytest.mark.parametrize("transparency", [1, b"\x80\x00\xff"], ids=["one colour", "of each colour"])
def test_palette_with_transparency(transparency):
    alpha = np.uint8([255, 0, 255] if transparency == 1 else list(transparency))[INDICES]
    image = decode_image(encoded(palette_image(), "PNG", transparency=transparency))
    assert np.abs(image - over_white(COLOURS[INDICES], alpha)).max() <= 1


def test_one_colour_of_rgb_may_be_transparent():
    image = decode_image(encoded(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[2, 3].tolist())))
    expected = RGB.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(file_format):
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if file_format == "WEBP" else {}
    file = encoded(first, file_format, save_all=True, append_images=[second], duration=100, **options)
    with Image.open(io.BytesIO(file)) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(decode_image(file), np.asarray(first))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(file_format, orientation):
    options = {"lossless": True} if file_format == "WEBP" else {}
    file = encoded(Image.fromarray(smooth(16, 24)), file_format, exif=exif_of(orientation), **options)
    with Image.open(io.BytesIO(file)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    opened = open_image(file)
    height, width = opened.shape
    region, box = opened.region((0, 0, width, height), (height, width))
    assert opened.shape == ((16, 24) if orientation < 5 else (24, 16))
    assert box == (0, 0, width, height)
    for image in (region, decode_image(file)):
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= (2 if file_format == "JPEG" else 0)  # two builds of libjpeg


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_of_16_bit_grey(orientation):
    picture = Image.fromarray(DEEP[..., 0])
    file = encoded(picture, "PNG", exif=exif_of(orientation))
    expected = np.rot90(DEEP[..., 0] >> 8, {3: 2, 6: -1}[orientation])
    np.testing.assert_array_equal(decode_image(file)[..., 1], expected)
