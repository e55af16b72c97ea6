"""Folders of images that the tests of folder sources write, and what they say of them."""

import io
import pathlib

import pytest
from PIL import Image

from vit_jax.data.folder import FolderSource, folder_source
from vit_jax.errors import UserError

CURE = "; rename it, or add it to train"


def encoded(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 3), (colour % 256, colour // 256, 7)).save(file, "PNG")
    return file.getvalue()


def write(root: pathlib.Path, *files: str) -> pathlib.Path:
    """Writes one image a name, each of its own colour, and returns the folder."""
    for colour, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(colour))
    return root


def members(source: FolderSource) -> list[tuple[str, str]]:
    """Returns the class and file of each row."""
    return [(source.class_names[label], file) for label, file in zip(source.labels, source.files, strict=True)]


def message(path, split: str = "train") -> str:
    """Returns the one line with which a path or split is refused."""
    with pytest.raises(UserError) as error:
        folder_source(str(path), split)
    assert "\n" not in str(error.value)
    return str(error.value)
