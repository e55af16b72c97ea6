"""What one finished run tells: its config, its size and cost, its speed and its accuracy."""

import dataclasses
import os
import pathlib
import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from vit_jax.config import flatten, model_overrides, resolve
from vit_jax.duration import Clock, to_steps
from vit_jax.errors import UserError, named
from vit_jax.measurement.flops import model_flops
from vit_jax.models.registry import create_model
from vit_jax.training.initial import newest_facts
from vit_jax.training.optimizer import parameter_count
from vit_jax.training.records import read_metrics

Curve = tuple[tuple[float, float], ...]
"""Pairs of epochs and top-1 accuracy."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as its workdir tells.

    Attributes:
      name: of its workdir.
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


def read_run(workdir: str) -> Run:
    """Returns what a workdir tells. Neither the data nor a device that can run the model are needed.

    Raises:
      UserError: it is no workdir, or its checkpoints do not say what was trained.
    """
    path = pathlib.Path(workdir)
    if not path.is_dir():
        raise UserError(f"{workdir} is no folder; name the workdirs of runs, such as runs/digits")
    facts = newest_facts(workdir)
    if facts is None:
        raise UserError(f"{workdir} is no run: it holds no checkpoint, which would tell what was trained")
    with named(workdir):
        try:
            return _read(path, facts)
        except KeyError as error:
            raise UserError(f"its checkpoint does not tell {error}; it was written by another version") from error


def _read(path: pathlib.Path, facts: dict) -> Run:
    config = resolve(_nested(facts["config"]))
    names, examples, size = tuple(facts["class_names"]), int(facts["examples"]), tuple(facts["image_size"])
    clock = Clock(examples, config.train.batch_size)
    total = to_steps(config.train.duration, clock, "train.duration")
    records = read_metrics(str(path))
    step = max((record["step"] for record in records), default=0)
    curve = tuple(
        (record["step"] * clock.batch_size / examples, record["eval/top1"])
        for record in records
        if record.get("eval/top1") is not None
    )
    parameters, gflop = size_and_cost(config, len(names), size)
    return Run(
        name=os.path.basename(os.path.normpath(path.absolute())),
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
        missing=_missing(config, dataclasses.replace(clock, total_steps=total), step, facts.get("best"), bool(curve)),
    )


def _nested(flat: dict[str, object]) -> ConfigDict:
    return ConfigDict(unflatten_dict(flat, sep="."))


def _missing(config: ConfigDict, clock: Clock, step: int, best: dict | None, evaluated: bool) -> str | None:
    """Returns why a run is not finished; one that was stopped early for want of progress is."""
    patience = config.train.early_stopping
    stopped = patience is not None and best is not None
    stopped = stopped and step - best["step"] >= to_steps(patience, clock, "train.early_stopping")
    if step < clock.total_steps and not stopped:
        return f"at step {step:,} of {clock.total_steps:,}"
    return None if evaluated else "never evaluated"


def speed_of(records: list[dict]) -> float | None:
    """Returns the median of the records' images a second, or None where none tells: 0 is of records between which no
    step was timed.
    """
    speeds = [speed for record in records if (speed := record.get("train/images_per_second"))]
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
