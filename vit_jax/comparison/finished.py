"""What one finished run tells: its config, its size and cost, its speed and its accuracy."""

import contextlib
import dataclasses
import math
import os
import pathlib
import statistics
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vit_jax.config import flatten, model_overrides, resolve
from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError
from vit_jax.measurement.flops import model_flops
from vit_jax.models.registry import create_model
from vit_jax.training.initial import newest_facts
from vit_jax.training.optimizer import parameter_count
from vit_jax.training.records import METRICS_FILE, sound_records

Curve = tuple[tuple[float, float], ...]
"""Pairs of epochs and top-1 accuracy."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as its workdir tells.

    Attributes:
      name: of its workdir.
      path: of its workdir, absolute; a copy is the same run.
      config: flattened, nothing left open.
      data: what it was trained on: its classes and the number of examples.
      parameters: of the model.
      gflop: 1e9 floating-point operations of a forward pass of one image (see `vit_jax.measurement.flops`).
      images_per_second: in training, the median of its records; None where no record tells.
      step, total_steps: taken, and those that the config asks for.
      epochs: that it was trained for.
      top1, best_top1: of the evaluation split after the last step, and the best of all evaluations, from 0 to 1.
      curve: the evaluations.
      missing: why it is not finished, or None where it is.
    """

    name: str
    path: str = dataclasses.field(compare=False)
    config: dict[str, object]
    data: tuple[int, tuple[str, ...]]
    parameters: int
    gflop: float
    images_per_second: float | None
    step: int
    total_steps: int
    epochs: float
    top1: float | None
    best_top1: float | None
    curve: Curve
    missing: str | None


class Unreadable(UserError):
    """A run is there, but does not tell enough to be compared.

    Attributes:
      workdir: of the run.
      reason: what is wrong with it.
    """

    def __init__(self, workdir: str, reason: str):
        super().__init__(reason if workdir in reason else f"{workdir}: {reason}")
        self.workdir, self.reason = workdir, reason


def read_runs(workdirs: Sequence[str]) -> tuple[list[Run], list[Unreadable]]:
    """Returns what the workdirs tell, and what is wrong with those that do not.

    Raises:
      UserError: one is no workdir, as where its name is misspelt.
    """
    runs, unreadable = [], []
    for workdir in workdirs:
        try:
            runs.append(read_run(workdir))
        except Unreadable as error:
            unreadable.append(error)
    return runs, unreadable


def read_run(workdir: str) -> Run:
    """Returns what a workdir tells. Neither the data nor a device that can run the model are needed.

    Raises:
      Unreadable: what it holds is damaged, or does not say what was trained.
      UserError: it is no workdir.
    """
    path = pathlib.Path(workdir)
    if not path.is_dir():
        raise UserError(f"{workdir} is no folder; name the workdirs of runs, such as runs/digits")
    with _explained(workdir):
        facts = newest_facts(workdir)
        if facts is not None:
            return _read(path, facts)
        if any((path / name).exists() for name in ("checkpoints", "config.json", METRICS_FILE)):
            raise UserError("it holds no checkpoint, which would tell what was trained")
    raise UserError(f"{workdir} is no run: it holds no checkpoint, which would tell what was trained")


@contextlib.contextmanager
def _explained(workdir: str) -> Iterator[None]:
    """Turns whatever goes wrong with a damaged run into one line.

    Raises:
      Unreadable: that one.
    """
    try:
        yield
    except UserError as error:
        raise Unreadable(workdir, str(error)) from error
    except KeyError as error:
        reason = f"its checkpoint does not tell {error}; it was written by another version"
        raise Unreadable(workdir, reason) from error
    except OSError as error:
        raise Unreadable(workdir, f"{error.filename}: {error.strerror}") from error
    except Exception as error:  # a value that no run writes is met by whatever uses it first
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise Unreadable(workdir, f"its checkpoint does not tell what was trained ({reason})") from error


def _read(path: pathlib.Path, facts: dict) -> Run:
    config = resolve(_nested(facts["config"]))
    names, examples, size = tuple(facts["class_names"]), int(facts["examples"]), tuple(facts["image_size"])
    clock = Clock(examples, config.train.batch_size)
    total = to_steps(config.train.duration, clock, "train.duration")
    records, damaged = sound_records(str(path))
    step = max((record["step"] for record in records), default=0)
    evaluations = [record for record in records if "eval/top1" in record]
    curve = tuple(
        (record["step"] * clock.batch_size / examples, record["eval/top1"])
        for record in evaluations
        if _is_number(record["eval/top1"])
    )
    missing = _missing(config, dataclasses.replace(clock, total_steps=total), step, facts.get("best"), evaluations)
    if missing and (damaged or not records):
        missing += f", and its {METRICS_FILE} {f'is damaged at line {damaged}' if damaged else 'holds no record'}"
    parameters, gflop = size_and_cost(config, len(names), size)
    return Run(
        name=os.path.basename(os.path.abspath(path)),
        path=os.path.abspath(path),
        config=flatten(config),
        data=(examples, names),
        parameters=parameters,
        gflop=gflop,
        images_per_second=speed_of(records),
        step=step,
        total_steps=total,
        epochs=step * clock.batch_size / examples,
        top1=curve[-1][1] if curve else None,
        best_top1=max((top1 for _, top1 in curve), default=None),
        curve=curve,
        missing=missing,
    )


def _nested(flat: dict[str, object]) -> ConfigDict:
    return ConfigDict(unflatten_dict(flat, sep="."))


def _missing(config: ConfigDict, clock: Clock, step: int, best: dict | None, evaluations: list[dict]) -> str | None:
    """Returns why a run is not finished; one that was stopped early for want of progress is.

    A kill in the last evaluation leaves the last step's record of training without its accuracy.
    """
    evaluated = bool(evaluations) and evaluations[-1]["step"] == step
    patience = config.train.early_stopping
    stopped = patience is not None and best is not None and evaluated
    stopped = stopped and step - best["step"] >= to_steps(patience, clock, "train.early_stopping")
    if step < clock.total_steps and not stopped:
        return f"at step {step:,} of {clock.total_steps:,}"
    if not evaluated:
        return "not evaluated after its last step" if evaluations else "never evaluated"
    return None if _is_number(evaluations[-1]["eval/top1"]) else "without a finite top-1 after its last step"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def speed_of(records: list[dict]) -> float | None:
    """Returns the median of the records' images a second, or None where none tells: 0 is of records between which no
    step was timed.
    """
    speeds = [speed for record in records if (speed := record.get("train/images_per_second")) and _is_number(speed)]
    return statistics.median(speeds) if speeds else None


def size_and_cost(config: ConfigDict, classes: int, size: tuple[int, int]) -> tuple[int, float]:
    """Returns the parameters of a config's model, and the 1e9 operations of its forward pass of one image.

    Abstractly: no array is made. What LoRA adds is not counted, as it is merged in use.
    """
    model = create_model(config.model.name, **{"num_classes": classes, **model_overrides(config)})
    variables = abstract_variables(model, size)
    return parameter_count(variables["params"]), model_flops(model, variables, size).flops / 1e9


def abstract_variables(model: nn.Module, size: tuple[int, int]) -> dict:
    """Returns the shapes and types of a model's variables for images of that height and width."""
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
