"""Runs as rows of a comparison: those that differ by their seed alone are one row, with mean and spread."""

import dataclasses
import itertools
import re
import statistics
from collections.abc import Sequence

from vit_jax.comparison.finished import Curve, Run
from vit_jax.config import MATHEMATICS_FREE
from vit_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spread:
    """Numbers of several seeds: their mean, and their sample standard deviation (None for one seed)."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns that of at least one number."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclasses.dataclass(frozen=True)
class Row:
    """The runs of one config, whatever their seeds.

    Attributes:
      name: what their workdirs' names have in common.
      members: the names of the workdirs.
      seeds: in the order of the members.
      best_top1: over the evaluations of each run: an optimistic number, as it is chosen by what it is measured on.
      images_per_second: None where a run does not tell.
      curve: epochs, and the mean accuracy of the runs there.
    """

    name: str
    members: tuple[str, ...]
    seeds: tuple[int, ...]
    parameters: int
    gflop: float
    images_per_second: Spread | None
    epochs: Spread
    top1: Spread
    best_top1: Spread
    curve: Curve


def rows_of(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Returns the rows in the order in which the runs are named, and what a reader must know beside them.

    Raises:
      UserError: no run is finished, or a run is named twice.
    """
    twice = next((run for i, run in enumerate(runs) if run in runs[:i]), None)
    if twice is not None:
        raise UserError(f"{twice.name} is named twice, or was copied; a run counts once")
    notes = [f"{run.name} is left out: it is not finished ({run.missing})" for run in runs if run.missing]
    finished = [run for run in runs if not run.missing]
    if not finished:
        raise UserError(f"no run is finished: {'; '.join(f'{run.name} is {run.missing}' for run in runs)}")
    groups: dict[tuple, list[Run]] = {}
    for run in finished:
        groups.setdefault((mathematics(run), run.data), []).append(run)
    rows = [_row(members) for members in groups.values()]
    for row in rows:
        if len(set(row.seeds)) < len(row.seeds):
            notes.append(f"{row.name}: some of its runs have the same seed, so the spread is too small")
    return rows, notes + unlike(finished)


def mathematics(run: Run) -> tuple:
    """Returns what of a run's config changes its results, but for the seed."""

    def free(key: str) -> bool:
        return key == "seed" or any(key == name or key.startswith(name + ".") for name in MATHEMATICS_FREE)

    counts = ("data.eval_split",)  # leaves the training alone, but not the accuracy that is compared
    return tuple(sorted((key, repr(value)) for key, value in run.config.items() if key in counts or not free(key)))


def unlike(runs: Sequence[Run]) -> list[str]:
    """Returns in what the runs differ that makes their accuracies hard to compare: what they were measured on."""
    notes = []
    for key in ("data.name", "data.eval_split"):
        values = list(dict.fromkeys(str(run.config[key]) for run in runs))
        if len(values) > 1:
            notes.append(f"the runs differ in {key}: {', '.join(values)}")
    if len({run.data[1] for run in runs}) > 1:
        notes.append("the runs differ in their classes")
    return notes


def _row(runs: Sequence[Run]) -> Row:
    speeds = [run.images_per_second for run in runs]
    return Row(
        name=_common_name([run.name for run in runs]),
        members=tuple(run.name for run in runs),
        seeds=tuple(run.config["seed"] for run in runs),
        parameters=runs[0].parameters,
        gflop=runs[0].gflop,
        images_per_second=None if None in speeds else Spread.of(speeds),
        epochs=Spread.of([run.epochs for run in runs]),
        top1=Spread.of([run.top1 for run in runs]),
        best_top1=Spread.of([run.best_top1 for run in runs]),
        curve=_mean_curve([run.curve for run in runs]),
    )


SEED = re.compile(r"[-_.]?(seed)?[-_.=]?\d+$")
"""What names of runs end with that differ by their seed."""


def _common_name(names: Sequence[str]) -> str:
    """Returns names without their seeds where they are then the same, else what they begin with, else the first."""
    if len(names) == 1:
        return names[0]
    stems = {SEED.sub("", name) for name in names}
    if len(stems) == 1:
        return stems.pop() or names[0]
    columns = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in columns).rstrip("-_.=") or names[0]


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the mean at the epochs that all curves have."""
    by_epoch = [dict(curve) for curve in curves]
    shared = [epoch for epoch, _ in curves[0] if all(epoch in points for points in by_epoch)]
    return tuple((epoch, statistics.fmean(points[epoch] for points in by_epoch)) for epoch in shared)
