"""Mutations of any file, and of the structure of images."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Mutation = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, -1, 2, 7, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with one to eight wrong bits."""
    changed = bytearray(whole)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flipped_early(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with wrong bits in its first 100 bytes, where headers are."""
    return flipped(whole[:100], rng) + whole[100:]


def cut(whole: bytes, rng: random.Random) -> bytes:
    """Returns the beginning of the file."""
    return whole[: rng.randrange(len(whole))]


def inserted(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with noise in between."""
    place = rng.randrange(len(whole))
    return whole[:place] + rng.randbytes(rng.choice([1, 2, 7, 300])) + whole[place:]


def deleted(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file without some of its bytes."""
    place = rng.randrange(len(whole))
    return whole[:place] + whole[place + rng.choice([1, 4, 100]) :]


def filled(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with a stretch of equal bytes."""
    place, length = rng.randrange(len(whole)), rng.choice([2, 8, 100])
    return whole[:place] + bytes([rng.choice([0, 255, 65])]) * length + whole[place + length :]


def repeated(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with a stretch of it copied elsewhere."""
    place, start = rng.randrange(len(whole)), rng.randrange(len(whole))
    return whole[:place] + whole[start : start + rng.choice([4, 50, 1000])] + whole[place:]


def lying_number(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with an extreme number, of 2, 4 or 8 bytes, in place of another."""
    size, place = rng.choice([2, 4, 8]), rng.randrange(max(len(whole) - 8, 1))
    number = (rng.choice(EXTREMES) % (1 << 8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    return whole[:place] + number + whole[place + size :]


def lying_early(whole: bytes, rng: random.Random) -> bytes:
    """Returns the file with an extreme number in its first 60 bytes."""
    return lying_number(whole[:60], rng) + whole[60:]


def noise(whole: bytes, rng: random.Random) -> bytes:
    """Returns the first bytes of the file, and noise."""
    return whole[: rng.choice([0, 2, 8, 30])] + rng.randbytes(rng.choice([0, 1, 100, 5000]))


ANY: list[Mutation] = [
    flipped,
    flipped_early,
    cut,
    inserted,
    deleted,
    filled,
    repeated,
    lying_number,
    lying_early,
    noise,
]


def picture(rng: random.Random, size: tuple[int, int] = (37, 29)) -> Image.Image:
    """Returns a picture of (width, height), part smooth, part noise."""
    noisy = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3).copy()
    noisy[: size[1] // 2] = 90
    return Image.fromarray(noisy)


def encoded(rng: random.Random) -> tuple[str, bytes]:
    """Returns the suffix and the bytes of a good image file of a random kind."""
    kind = rng.choice(
        ["jpeg", "progressive", "cmyk", "turned", "png", "palette", "16bit", "webp", "gif", "bmp", "tiff"]
    )
    image, options, file = picture(rng), {}, io.BytesIO()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = rng.randint(2, 8)
        options = {"exif": exif}
    elif kind == "16bit":
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    elif kind == "palette":
        image, options = image.quantize(16), {"transparency": 3}
    elif kind == "cmyk":
        image = image.convert("CMYK")
    elif kind in ("gif", "tiff"):
        options = {"save_all": True, "append_images": [picture(rng)]}
    elif kind == "progressive":
        options = {"progressive": True}
    name = {"progressive": "jpeg", "cmyk": "jpeg", "turned": "jpeg", "palette": "png", "16bit": "png"}.get(kind, kind)
    image.save(file, name.upper(), **options)
    return f".{name}", file.getvalue()


def lying_size(whole: bytes, rng: random.Random) -> bytes:
    """Returns an image file whose header states another width and height; a PNG's checksum is made to fit."""
    width, height = (rng.choice([0, 1, 30, 5000, 65535, 2**31 - 1, 178_956_970]) for _ in range(2))
    if whole.startswith(b"\x89PNG"):
        header = whole[12:16] + struct.pack(">II", width, height) + whole[24:29]
        return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    if whole.startswith(b"\xff\xd8"):
        place = max(whole.find(b"\xff\xc0"), whole.find(b"\xff\xc2")) + 5
        return whole[:place] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + whole[place + 4 :]
    if whole.startswith(b"GIF"):
        return whole[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + whole[10:]
    if whole.startswith(b"BM"):
        return whole[:18] + struct.pack("<ii", width & 0x7FFFFFFF, -height) + whole[26:]
    return lying_early(whole, rng)


def elongated(whole: bytes, rng: random.Random) -> bytes:
    """Returns a good PNG or BMP that is a thousand to a million times as wide as high, or the other way round."""
    long = rng.choice([1_000, 65_000, 1_000_000])
    size = rng.choice([(long, 1), (1, long)])
    file = io.BytesIO()
    Image.new(rng.choice(["L", "RGB", "1"]), size, 1).save(file, "PNG")
    return file.getvalue()


def bomb(whole: bytes, rng: random.Random) -> bytes:
    """Returns a PNG whose text or colour profile unpacks to 100 MB."""
    kind = rng.choice([b"zTXt", b"iCCP", b"iTXt"])
    content = b"x\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    file = io.BytesIO()
    picture(rng).save(file, "PNG")
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


IMAGES: list[Mutation] = [*ANY, lying_size, lying_size, elongated, bomb]
