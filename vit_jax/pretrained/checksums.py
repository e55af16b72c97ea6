"""Checksums of a folder's files, by which a checkpoint that a disk or a copy has damaged is known.

Orbax checks its indices, not the numbers that they point to: a flipped bit of an array is read as if it had been saved.
"""

import json
import pathlib
import zlib

CHECKSUMS_FILE = "checksums.json"
NOT_COVERED = (CHECKSUMS_FILE, "_CHECKPOINT_METADATA", "commit_success.txt")
"""Files at the top of a folder that are written after the checksums: Orbax's marks of when it was finished."""

CHUNK = 2**20
"""Bytes that are read at a time."""


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the checksums of all files in a folder beside them, to `checksums.json`.

    Raises:
      OSError: a file cannot be read, or that one not written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    sums = {name: crc32(path) for name, path in names.items() if name not in NOT_COVERED}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(sums))


def has_checksums(folder: pathlib.Path) -> bool:
    """Returns whether checksums of a folder's files have been written."""
    return (folder / CHECKSUMS_FILE).is_file()


def damage(folder: pathlib.Path, part: str = "") -> str | None:
    """Returns what is wrong with the files of a folder, or None.

    A folder without checksums is taken as it is: such were saved before there were any.

    Args:
      part: of a sub-folder alone.

    Raises:
      OSError: a file that is there cannot be read.
    """
    if not has_checksums(folder):
        return None
    try:
        sums = dict(json.loads((folder / CHECKSUMS_FILE).read_text()))
    except (ValueError, TypeError):
        return f"{CHECKSUMS_FILE} cannot be read"
    for name, expected in sums.items():
        if not name.startswith(part):
            continue
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if crc32(path) != expected:
            return f"{name} is not as it was written"
    return None


def crc32(path: pathlib.Path) -> int:
    """Returns the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
