"""Reading a workdir's checkpoints, past those that are damaged."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import jax
from tqdm import tqdm

from vit_jax.errors import UserError
from vit_jax.pretrained.checksums import damage, has_checksums
from vit_jax.training.agreement import anywhere

T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint is not as it was written."""


class Found(NamedTuple, Generic[T]):
    """The newest checkpoint that can be read.

    Attributes:
      value: what was read of it.
      damaged: newer steps, and what is wrong with each.
    """

    step: int
    value: T
    damaged: dict[int, str]


def checkpoint_folder(workdir: str) -> pathlib.Path:
    """Returns where a run's checkpoints are."""
    return pathlib.Path(workdir).absolute() / "checkpoints"


def steps_in(directory: pathlib.Path) -> list[int]:
    """Returns the steps that are saved in a folder of checkpoints, newest first, damaged ones included."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def read_newest(directory: pathlib.Path, read: Callable[[int], T]) -> Found[T] | None:
    """Returns the newest checkpoint that `read` can read, on every host the same; None where there are none at all.

    Raises:
      UserError: there are some, but none can be read.
    """
    damaged = {}
    for step in steps_in(directory):
        value, wrong = None, None
        try:
            value = read(step)
        except Damaged as error:
            wrong = str(error)
        if not anywhere(wrong is not None):
            return Found(step, value, damaged)
        damaged[step] = wrong or f"checkpoint {directory / str(step)} is damaged, as another host says"
    if damaged:
        raise UserError(
            f"no checkpoint can be read: {'; '.join(damaged.values())}. Nothing was moved: mend one, "
            f"or remove {directory} to start from the beginning"
        )
    return None


def read_facts(folder: pathlib.Path) -> dict:
    """Returns what was saved beside the state of a step: its data position (`position`) and the run's facts.

    Raises:
      Damaged: it is not as it was written.
    """
    with explained_damage(folder):
        if reason := damage(folder, "run/"):
            raise Damaged(f"checkpoint {folder} is damaged ({reason})")
        return dict(json.loads((folder / "run" / "metadata").read_text()))


def require_sound(folder: pathlib.Path) -> bool:
    """Returns whether a step's files have checksums; the first host compares them.

    Raises:
      Damaged: on every host, where a file is not as it was written.
    """
    reason = None
    if jax.process_index() == 0:
        try:
            reason = damage(folder)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
    if anywhere(reason is not None):
        raise Damaged(f"checkpoint {folder} is damaged ({reason or 'as the first host says'})")
    return has_checksums(folder)


@contextlib.contextmanager
def explained_damage(folder: pathlib.Path, sound: bool = False) -> Iterator[None]:
    """Turns whatever Orbax raises for a checkpoint that it cannot read into one line.

    Args:
      sound: its files are known to be as they were written, so that it is something else, such as want of memory.

    Raises:
      Damaged: unless it is sound.
      UserError: then.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if sound:
            raise UserError(f"checkpoint {folder} is whole, but cannot be restored ({reason})") from error
        raise Damaged(f"checkpoint {folder} is damaged ({reason})") from error


def accuracy_of(folder: pathlib.Path) -> float | None:
    """Returns the validation accuracy that a step was saved with, or None where there is none that can be read."""
    try:
        return float(json.loads((folder / "metrics" / "metrics").read_text())["top1"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def say(line: str) -> None:
    """Prints a line to stderr, by the first host, beside a progress bar that may be there."""
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)
