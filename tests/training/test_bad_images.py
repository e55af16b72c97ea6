"""A folder of images with every hostile file among them trains to its end, with the bad ones named and counted."""

import io
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import small_config
from vit_jax.errors import UserError
from vit_jax.training.evaluate import evaluate
from vit_jax.training.run import train


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def noise(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


PHOTO = encoded(noise(40, 50, 0), "JPEG", quality=90)
BOMB = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))

STRANGE = {
    "dot.png": encoded(noise(1, 1, 1), "PNG"),
    "wide.png": encoded(Image.new("RGB", (20_000, 10), "green"), "PNG"),
    "press.jpg": encoded(noise(30, 30, 2).convert("CMYK"), "JPEG"),
    "grey.jpg": encoded(noise(30, 30, 3).convert("L"), "JPEG"),
    "moving.gif": encoded(noise(12, 12, 4), "GIF", save_all=True, append_images=[noise(12, 12, 5)]),
    "deep.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "glass.png": encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 40)), "PNG"),
    "two\nlines.jpg": PHOTO,
    "caf\udce9.jpg": PHOTO,
    "UPPER.JPEG": PHOTO,
}
"""Readable, though many a loader stumbles over them."""

BROKEN = {
    "empty.jpg": b"",
    "half.jpg": PHOTO[: len(PHOTO) // 2],
    "text.jpg": b"this is no picture",
    "bomb.png": BOMB,
    "bro\nken.png": b"\x89PNG\r\n\x1a\n",
    "nothing.gif": b"GIF89a",
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n",
}


@pytest.fixture
def folder(tmp_path):
    """Two classes with good, strange and broken files, a folder called like a file, and a link that leads nowhere."""
    place = tmp_path / "images"
    for name in ("a", "b"):
        (place / name).mkdir(parents=True)
        for row in range(12):
            (place / name / f"{row}.jpg").write_bytes(encoded(noise(20 + row, 30, row), "JPEG"))
    for name, content in (STRANGE | BROKEN).items():
        with open(os.path.join(os.fsencode(place), b"a", os.fsencode(name)), "wb") as file:
            file.write(content)
    (place / "b" / "gone.jpg").symlink_to(place / "nowhere.jpg")
    return place


def config_for(folder):
    config = small_config()
    config.data.name = f"folder:{folder}"
    config.data.train_split = config.data.eval_split = "train"
    config.data.image_size = 8
    config.augment.crop = "inception"
    config.augment.affine.rotation = 0.0
    return config


def named(captured: str) -> list[str]:
    return [line.removeprefix("cannot read ").partition(": ")[0] for line in captured.splitlines() if "cannot" in line]


def test_it_trains_to_the_end_and_names_and_counts_the_bad_ones(folder, tmp_path, capsys):
    config, workdir = config_for(folder), tmp_path / "run"
    state, metrics = train(config, workdir=str(workdir))
    assert int(state.step) == 12
    assert np.isfinite(metrics["train/loss"])
    bad = {f"a/{name}" for name in BROKEN if name.isprintable()} | {repr("a/bro\nken.png"), "b/gone.jpg"}
    assert metrics["eval/unreadable"] == len(bad) == len(BROKEN) + 1
    # Training and evaluation name each once, however often it is met: 12 steps of 32 are nine epochs.
    names = named(capsys.readouterr().err)
    assert sorted(names) == sorted(2 * [*bad])

    evaluate(config, str(workdir))
    report = json.loads((workdir / "evaluation.json").read_text())
    assert (report["examples"], report["unreadable"]) == (24 + len(STRANGE), len(bad))
    assert f"{len(bad)} unreadable" in capsys.readouterr().out


def test_past_the_limit_the_run_stops_with_what_is_wrong(folder, tmp_path):
    config = config_for(folder)
    config.data.max_bad = 3
    with pytest.raises(UserError, match=r"4 images cannot be read, .* more than data\.max_bad = 3 allows"):
        train(config, workdir=str(tmp_path / "run"))


def test_a_file_that_may_not_be_read_is_one_of_them(folder, tmp_path, capsys, monkeypatch):
    def forbidding(path, *arguments, **options):
        if str(path).endswith(os.path.join("b", "3.jpg")):
            raise PermissionError(13, "Permission denied", path)  # tests may run as root, who may read everything
        return open(path, *arguments, **options)

    monkeypatch.setattr("vit_jax.data.folder.open", forbidding, raising=False)
    config = config_for(folder)
    config.train.duration = "2 steps"
    config.schedule.warmup = "1 steps"
    train(config, workdir=str(tmp_path / "run"))
    assert "cannot read b/3.jpg: Permission denied" in capsys.readouterr().err


def test_nothing_readable_to_evaluate_on(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        (tmp_path / "images" / "val" / name).mkdir(parents=True)
        (tmp_path / "images" / "train" / name / "1.jpg").write_bytes(PHOTO)
        (tmp_path / "images" / "val" / name / "1.jpg").write_bytes(b"")
    config = config_for(tmp_path / "images")
    config.data.eval_split = "val"
    config.train.duration = "2 steps"
    config.schedule.warmup = "1 steps"
    with pytest.raises(UserError, match="none of the 2 images to evaluate on can be read"):
        train(config, workdir=str(tmp_path / "run"))
