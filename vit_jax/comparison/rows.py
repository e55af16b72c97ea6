"""Runs as rows of a comparison: those that differ by their seed alone are one row, with mean and spread."""

import dataclasses
import itertools
import pathlib
import re
import statistics
from collections.abc import Sequence

from vit_jax.comparison.finished import Curve, Run, Unreadable
from vit_jax.config_differences import leaves_mathematics_alone
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
      name: what their workdirs' names have in common; no other row of the comparison has it.
      members: the names of the workdirs, with folders before them where names are the same.
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


def rows_of(runs: Sequence[Run], unreadable: Sequence[Unreadable] = ()) -> tuple[list[Row], list[str]]:
    """Returns the rows in the order in which the runs are named, and what a reader must know beside them.

    Args:
      unreadable: what is wrong with other runs, which are named and left out.

    Raises:
      UserError: no run is finished, or a run is named twice.
    """
    twice = next((run for i, run in enumerate(runs) if run in runs[:i]), None)
    if twice is not None:
        raise UserError(f"{twice.name} is named twice, or was copied; a run counts once")
    runs = told_apart(runs)
    notes = [f"{run.name} is left out: it is not finished ({run.missing})" for run in runs if run.missing]
    notes += [f"{error.workdir} is left out: it cannot be read ({error.reason})" for error in unreadable]
    finished = [run for run in runs if not run.missing]
    if not finished:
        reasons = [f"{run.name} is {run.missing}" for run in runs]
        reasons += [f"{error.workdir} cannot be read ({error.reason})" for error in unreadable]
        raise UserError(f"no run is finished: {'; '.join(reasons)}") from next(iter(unreadable), None)
    groups: dict[tuple, list[Run]] = {}
    for run in finished:
        groups.setdefault((mathematics(run), run.data), []).append(run)
    names = row_names(list(groups.values()))
    rows = [_row(name, members) for name, members in zip(names, groups.values(), strict=True)]
    for row in rows:
        if len(set(row.seeds)) < len(row.seeds):
            notes.append(f"{row.name}: some of its runs have the same seed, so the spread is too small")
    return rows, notes + unlike(finished)


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs; those whose folders have the same name get as much of their paths as tells them apart."""
    names, paths = [run.name for run in runs], [pathlib.PurePath(run.path).parts for run in runs]
    for depth in range(2, max(map(len, paths), default=0) + 1):
        shared = {name for name in names if names.count(name) > 1}
        longer = [str(pathlib.PurePath(*path[-depth:])) for path in paths]
        names = [more if name in shared else name for name, more in zip(names, longer, strict=True)]
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def mathematics(run: Run) -> tuple:
    """Returns what of a run's config changes its results, but for the seed."""

    def free(key: str) -> bool:
        return key == "seed" or leaves_mathematics_alone(key)

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


def _row(name: str, runs: Sequence[Run]) -> Row:
    speeds = [run.images_per_second for run in runs]
    return Row(
        name=name,
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


def row_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Returns what the runs of each row have in common; with folders, or as all of its runs, where rows share that."""
    folders = [[pathlib.PurePath(run.name).name for run in group] for group in groups]
    members = [[run.name for run in group] for group in groups]
    names = [_common_name(own) or own[0] for own in folders]
    for longer in (_common_name, ", ".join):
        shared = {name for name in names if names.count(name) > 1}
        more = [longer(own) or ", ".join(own) for own in members]
        names = [after if name in shared else name for name, after in zip(names, more, strict=True)]
    return names


def _common_name(names: Sequence[str]) -> str:
    """Returns names without their seeds where they are then the same, else what they begin with: at worst nothing."""
    if len(set(names)) == 1:
        return names[0]
    stems = {SEED.sub("", name) for name in names}
    if len(stems) == 1:
        return stems.pop().rstrip("/")
    columns = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in columns).rstrip("-_.=/")


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the mean at the epochs that all curves have."""
    by_epoch = [dict(curve) for curve in curves]
    shared = [epoch for epoch, _ in curves[0] if all(epoch in points for points in by_epoch)]
    return tuple((epoch, statistics.fmean(points[epoch] for points in by_epoch)) for epoch in shared)
