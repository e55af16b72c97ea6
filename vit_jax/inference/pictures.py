"""Which image files a person means by the paths on a command line."""

import os
import re
from collections.abc import Iterable

from vit_jax.data.folder_layouts import Scan
from vit_jax.data.folder_tables import EXTENSIONS, shown
from vit_jax.errors import UserError


def image_files(places: Iterable[str]) -> list[str]:
    """Returns the files that paths stand for, in the order of the paths.

    A file stands for itself, whatever its name ends in. A folder stands for the images in it and below it (by
    `vit_jax.data.folder_tables.EXTENSIONS`), in natural order: `2.jpg` before `10.jpg`. Hidden files are left out, and
    links that lead back are not followed.

    Raises:
      UserError: a path does not exist, or a folder cannot be listed or holds no images.
    """
    files = []
    for place in places:
        if os.path.isdir(place):
            files += _images_in(place)
        elif _exists(place):
            files.append(place)
        else:
            raise UserError(f"no such file or folder: {shown(place) if place else repr(place)}")
    return files


def natural_key(path: str) -> tuple[list[list[str | int]], str]:
    """Returns what sorts paths folder by folder, numbers in them by their value."""
    parts = [re.split(r"(\d+)", part) for part in path.split(os.sep)]
    return [[int(text) if text.isdecimal() else text for text in part] for part in parts], path


def _images_in(folder: str) -> list[str]:
    found = Scan(folder, folder).images("")
    if not found:
        raise UserError(f"{shown(folder)} holds no images; known are {' '.join(sorted(EXTENSIONS))}")
    return [os.path.join(folder, name) for name in sorted(found, key=natural_key)]


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a null byte
        return False
