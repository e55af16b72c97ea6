"""Checkpoints and bundles as contenders of mode "infer": every combination of the axes that each of them has."""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import jax

from vit_jax.command import model_fields, size_of
from vit_jax.errors import UserError
from vit_jax.measurement.cases import AXES, DEFAULTS, value_name
from vit_jax.measurement.programs import Call, Facts, Work
from vit_jax.measurement.served import Answer, Served, serve
from vit_jax.pretrained.bundle import PROGRAMS, bundle_folder, read_bundle

FIXED = {"model": "the weights", "depth": "the weights"}
"""Axes that a checkpoint settles, and what of it does."""

MODEL = "model."


@dataclasses.dataclass(frozen=True)
class CheckpointCase:
    """One combination of the axes.

    Attributes:
      name: the checkpoint and the values of the axes, each where there are several.
      settings: the checkpoint, and the value of every axis that a flag names and that it has.
      dtype: the name of the type that is computed in.
    """

    name: str
    settings: dict[str, str]
    dtype: str


@dataclasses.dataclass
class ServedProgram:
    """A forward pass of a checkpoint: from NumPy images to NumPy answers, as those who serve it see it."""

    label: str
    by: str
    case: CheckpointCase
    work: Work
    served: Served
    answer: Answer | None = None

    def prepare(self) -> Facts:
        """Compiles, and runs once."""
        images = self.served.images(self.work.images)
        self.answer, facts = self.served.ready(images)
        self.answer(images)
        return dataclasses.replace(facts, load_seconds=self.served.load_seconds, file_bytes=self.served.file_bytes)

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[Call, Call]]:
        """Returns what makes one call; it returns with the answer, so that there is nothing to wait for."""
        images = self.served.images(self.work.images)
        yield lambda: self.answer(images), lambda: None

    def trace(self, folder: str) -> bool:
        """Writes a profile of one call into a folder; False where it is not JAX that runs."""
        if self.served.by == "onnx":
            return False
        with self.running() as (call, _):
            call()
            with jax.profiler.trace(folder):
                call()
        return True


def checkpoint_programs(
    checkpoints: str, axes: dict[str, str], overrides: Sequence[tuple[str, str]] = ()
) -> list[ServedProgram]:
    """Returns a program for every checkpoint at every combination of the axes, the last axis changing fastest.

    Axes of how a model is computed (`dtype`, `attention`, …) are of live models alone: an exported program computes as
    it was exported, and is measured once for them.

    Args:
      checkpoints: each as `vit_jax.load_model` takes it, with commas between.
      axes: by name of the flag, values with commas between.
      overrides: config keys of the model, such as `model.heads`, and their values.

    Raises:
      UserError: a checkpoint cannot be read or does not go with an axis, or a value is not as it must be.
    """
    names = checkpoints.split(",")
    values = _values(names, axes)
    fields = {key.removeprefix(MODEL): text for key, text in overrides}
    for key, _ in overrides:
        if not key.startswith(MODEL) or key == AXES["model"]:
            raise UserError(f"--config.{key} and --checkpoint do not go together; of --config only model fields do")
    for axis in axes:
        if AXES[axis] in dict(overrides):
            raise UserError(f"--{axis} and --config.{AXES[axis]} set the same; give one of them")
    programs = [program for name in names for program in _of_checkpoint(name, names, values, fields)]
    of_live = [axis for axis in values if axis not in ("batch_size", "image_size")]
    unused = [f"--{axis}" for axis in of_live] + [f"--config.{MODEL}{field}" for field in fields]
    if unused and all(program.by in PROGRAMS for program in programs):
        raise UserError(f"{unused[0]} is for live models; an exported program computes as it was exported")
    return programs


def _values(names: list[str], axes: dict[str, str]) -> dict[str, list[str]]:
    for axis in axes:
        if axis in FIXED:
            raise UserError(f"--{axis} and --checkpoint do not go together: {FIXED[axis]} have their own")
    values = {axis: axes[axis].split(",") for axis in AXES if axis in axes}
    values.setdefault("batch_size", [DEFAULTS["batch_size"]])
    for flag, several in {"checkpoint": names, **values}.items():
        if "" in several:
            raise UserError(f"--{flag}={','.join(several)} has an empty value")
        if len(set(several)) < len(several):
            raise UserError(f"--{flag}={','.join(several)} names a value twice")
    for text in values["batch_size"]:
        if not (text.isdecimal() and int(text)):
            raise UserError(f"--batch_size must be whole numbers from 1 up, not {text!r}")
    return values


def _of_checkpoint(
    checkpoint: str, names: list[str], values: dict[str, list[str]], fields: dict[str, str]
) -> Iterator[ServedProgram]:
    if holds_program(checkpoint):
        fields, values = {}, {axis: several for axis, several in values.items() if axis in ("batch_size", "image_size")}

    @functools.cache
    def ready(image_size: str | None, given: tuple[tuple[str, str], ...]) -> Served:
        return serve(checkpoint, None if image_size is None else _size(image_size), model_fields(list(given)))

    for combination in itertools.product(*values.values()):
        settings = dict(zip(values, combination, strict=True))
        of_model = {AXES[axis].removeprefix(MODEL): text for axis, text in settings.items() if _is_field(axis)}
        served = ready(settings.get("image_size"), tuple({**fields, **of_model}.items()))
        words = [value_name(axis, value) for axis, value in settings.items() if len(values[axis]) > 1]
        short = short_name(checkpoint, names) if len(names) > 1 else ""
        name = " ".join(word for word in (short, *words) if word)
        case = CheckpointCase(name, {"checkpoint": checkpoint, **settings}, served.dtype)
        yield ServedProgram(_label(served.by, name), served.by, case, _work(served, settings), served)


def holds_program(checkpoint: str) -> bool:
    """Returns whether a CHECKPOINT is a bundle that holds a compiled program.

    Raises:
      UserError: it is a damaged bundle.
    """
    folder = bundle_folder(pathlib.Path(checkpoint).expanduser())
    return folder is not None and read_bundle(folder).format in PROGRAMS


def _is_field(axis: str) -> bool:
    return AXES[axis].startswith(MODEL)


def _size(text: str) -> tuple[int, int]:
    try:
        return size_of(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--image_size {error}") from error


def short_name(checkpoint: str, names: Sequence[str]) -> str:
    """Returns the last part of a checkpoint's path where that tells it from the others, else the whole."""
    last = [pathlib.PurePath(name).name for name in names]
    mine = pathlib.PurePath(checkpoint).name
    return mine if mine and last.count(mine) == 1 else checkpoint


def _label(by: str, name: str) -> str:
    return name if name.split(" ")[0] == by else f"{by} {name}".strip()


def _work(served: Served, settings: dict[str, str]) -> Work:
    images = int(settings["batch_size"])
    products = None if served.products is None else served.products * images
    return Work(images, served.tokens, products, served.notes)
