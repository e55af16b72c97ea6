"""JPEG regions at the scale that is needed; damaged files, bombs and foreign formats are UnreadableImage."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data.decode import (
    MAX_PIXELS,
    JpegFile,
    UnreadableImage,
    decode_image,
    decoded_by_pillow,
    open_image,
    require_size,
)
from vit_jax.data.jpeg import read_header
from vit_jax.data.resize import resized


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 15) + np.cos(y / 21), np.cos(x / 27) - np.sin(y / 12), np.sin((x + y) / 24)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


LARGE = smooth(96, 128)
LARGE_FILE = encoded(Image.fromarray(LARGE), "JPEG", quality=95, subsampling=0)


@pytest.mark.parametrize(
    ("box", "least", "factor"),
    [
        ((0, 0, 128, 96), (12, 16), 8),
        ((0, 0, 128, 96), (13, 16), 4),
        ((0, 0, 128, 96), (12, 17), 4),
        ((0, 0, 128, 96), (48, 64), 2),
        ((0, 0, 128, 96), (49, 10), 1),
        ((0, 0, 128, 96), (10, 65), 1),
        ((0, 0, 128, 96), (200, 200), 1),
        ((17, 9, 97, 89), (10, 10), 8),
        ((17, 9, 97, 88), (10, 10), 4),
        ((33, 21, 73, 61), (20, 20), 2),
        ((33, 21, 72, 61), (20, 20), 1),
        ((127, 95, 128, 96), (1, 1), 1),
    ],
)
def test_region_shrinks_no_further_than_it_may(box, least, factor):
    opened = open_image(LARGE_FILE)
    assert isinstance(opened, JpegFile)
    assert opened.shape == (96, 128)
    pixels, inside = opened.region(box, least)
    height, width = inside[3] - inside[1], inside[2] - inside[0]
    assert (height * factor, width * factor) == (box[3] - box[1], box[2] - box[0])
    assert factor == 1 or (height >= least[0] and width >= least[1])
    assert pixels.shape[0] <= np.ceil(96 / factor)
    assert pixels.shape[1] <= np.ceil(128 / factor)
    assert min(inside) >= 0
    assert inside[2] <= pixels.shape[1]
    assert inside[3] <= pixels.shape[0]
    size = min(least[0], box[3] - box[1]), min(least[1], box[2] - box[0])
    seen, expected = resized(pixels, size, box=inside), resized(LARGE, size, box=box)
    difference = np.abs(seen.astype(int) - expected)
    assert difference.mean() <= 2  # the picture changes by up to 6 a pixel, so a shift of one would show
    assert difference.max() <= 16


def test_region_of_a_damaged_file_is_what_pillow_makes_of_it():
    middle = len(LARGE_FILE) // 2
    damaged = LARGE_FILE[:middle] + b"\x55" * 30 + LARGE_FILE[middle + 30 :]
    by_pillow = decoded_by_pillow(damaged)
    pixels, box = open_image(damaged).region((16, 8, 80, 90), (4, 4))
    assert box == (16, 8, 80, 90)
    np.testing.assert_array_equal(pixels, by_pillow)
    np.testing.assert_array_equal(decode_image(damaged), by_pillow)
    assert (by_pillow != decode_image(LARGE_FILE)).any()


def test_region_of_a_file_that_pillow_cannot_read_either():
    for cut in (len(LARGE_FILE) // 2, len(LARGE_FILE) - 400):
        opened = JpegFile(LARGE_FILE[:cut], read_header(LARGE_FILE))
        with pytest.raises(UnreadableImage, match="not a readable image"):
            opened.region((0, 0, 128, 96), (96, 128))


def test_damaged_file_that_pillow_would_turn():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    file = encoded(Image.fromarray(LARGE), "JPEG", xmp=xmp)
    damaged = file[:-300] + b"\x55" * 30 + file[-270:]
    assert decoded_by_pillow(damaged).shape == (128, 96, 3)
    with pytest.raises(UnreadableImage, match="of two orientations"):
        open_image(damaged).region((100, 0, 128, 96), (8, 8))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
JPEG, PNG = encoded(Image.new("RGB", (16, 8), (200, 30, 60)), "JPEG"), encoded(NOISE.crop((0, 0, 7, 5)), "PNG")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"no image at all", bytes(range(256)), JPEG[:3] + b"\0" * 100, JPEG[: len(JPEG) // 2], PNG[:20], PNG[:-40]],
    ids=["empty", "text", "bytes", "jpeg-header", "half-jpeg", "png-header", "half-png"],
)
@pytest.mark.parametrize("decode", [decode_image, open_image])
def test_garbage_is_unreadable(garbage, decode):
    with pytest.raises(UnreadableImage, match=r"not a readable image: \w") as refused:
        decode(garbage)
    assert "\n" not in str(refused.value)
    assert "BytesIO" not in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_unreadable(file_format, share):
    file = encoded(NOISE, file_format)
    assert decode_image(file).shape == (64, 64, 3)
    with pytest.raises(UnreadableImage, match="not a readable image"):
        decode_image(file[: int(share * len(file))])


@pytest.mark.parametrize("file_format", ["EPS", "ICO", "TGA"])
def test_other_formats_are_refused(file_format):
    file = encoded(NOISE, file_format)
    with Image.open(io.BytesIO(file)) as image:  # Pillow would, PostScript by a program of its own
        assert image.format == file_format
    with pytest.raises(UnreadableImage, match="cannot identify image file"):
        decode_image(file)


def png_by_hand(width: int, height: int) -> bytes:
    """Returns a PNG file whose header promises more pixels than it has."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def patched_size(file: bytes, height: int, width: int) -> bytes:
    place = file.index(b"\xff\xc0") + 5
    return file[:place] + struct.pack(">HH", height, width) + file[place + 4 :]


TURNED = Image.Exif()
TURNED[0x0112] = 6
BOMBS = {
    "png": png_by_hand(100_000, 100_000),
    "jpeg": patched_size(JPEG, 65_000, 65_000),
    "half-jpeg": patched_size(LARGE_FILE, 65_000, 65_000)[:3000],
    "cmyk-jpeg": patched_size(encoded(NOISE.convert("CMYK"), "JPEG"), 65_000, 65_000),
    "turned-jpeg": patched_size(encoded(NOISE, "JPEG", exif=TURNED), 65_000, 65_000),
    "gif": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + encoded(NOISE, "GIF")[10:],
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("decode", [decode_image, open_image])
def test_decompression_bombs_are_refused(name, decode):
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        decode(BOMBS[name])


def test_the_largest_image_that_is_allowed():
    require_size(1, MAX_PIXELS)
    with pytest.raises(UnreadableImage, match=rf"^{MAX_PIXELS + 1}x1 pixels are more than 178,956,970"):
        require_size(1, MAX_PIXELS + 1)


@pytest.mark.parametrize("file", [JPEG, PNG, LARGE_FILE], ids=["jpeg", "png", "large-jpeg"])
def test_damaged_files_raise_nothing_but_unreadable_image(file):
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(200):
        damaged = bytearray(file)
        for place in random.integers(0, 700 if trial % 2 and len(file) > 700 else len(file), 4):
            damaged[place] = random.integers(0, 256)
        try:
            opened = open_image(bytes(damaged))
            height, width = opened.shape
            if height * width < 10**6:
                pixels, box = opened.region((width // 3, height // 3, width, height), (1, 1))
                assert 0 <= box[0] < box[2] <= pixels.shape[1]
                assert 0 <= box[1] < box[3] <= pixels.shape[0]
        except UnreadableImage:
            refused += 1
    assert refused > 0
