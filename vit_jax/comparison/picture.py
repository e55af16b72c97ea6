"""A comparison as a picture: accuracy against parameters, operations, speed and epochs."""

import pathlib
from collections.abc import Callable, Sequence

from vit_jax.comparison.rows import Row
from vit_jax.errors import UserError, explained_writes
from vit_jax.measurement.plot import COLOURS

PANELS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("parameters, millions", lambda row: row.parameters / 1e6),
    ("GFLOP of a forward pass of one image", lambda row: row.gflop),
    ("images/s in training", lambda row: row.images_per_second and row.images_per_second.mean),
)
"""What accuracy is drawn against, beside the epochs."""

MARKERS = "osD^vP"


def require_picture(file: pathlib.Path) -> None:
    """Raises a `UserError` unless the file can be a picture."""
    if file.suffix != ".png":
        raise UserError(f"--out writes a .png file, not {file}")
    if not file.parent.is_dir():
        raise UserError(f"--out={file}: there is no folder {file.parent}")


def write_picture(file: pathlib.Path, rows: Sequence[Row]) -> None:
    """Draws four panels: last top-1, with its spread over seeds, against each of `PANELS`, and every evaluation.

    Raises:
      UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.6), layout="constrained")
    *against, curves = figure.subplots(2, 2).flat
    for panel, (label, place) in zip(against, PANELS, strict=True):
        _draw_points(panel, rows, place)
        panel.set(xlabel=label, ylabel="last top-1 accuracy (%)")
    for number, row in enumerate(rows):
        epochs, top1 = zip(*row.curve, strict=True) if row.curve else ((), ())
        style = {"color": _colour(number), "marker": _marker(number), "markersize": 4, "linewidth": 1.3}
        curves.plot(epochs, [100 * value for value in top1], label=_label(row), **style)
    curves.set(xlabel="epochs", ylabel="top-1 accuracy (%)")
    for panel in (*against, curves):
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = curves.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(rows), 4), frameon=False, fontsize=9)
    with explained_writes(str(file)):
        figure.savefig(file, dpi=150)


def _draw_points(panel, rows: Sequence[Row], place: Callable[[Row], float | None]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for number, row in enumerate(rows):
        x = place(row)
        if x is not None:
            error = None if row.top1.std is None else 100 * row.top1.std
            style = {"color": _colour(number), "marker": _marker(number), "markersize": 8, "capsize": 3}
            panel.errorbar(x, 100 * row.top1.mean, yerr=error, linestyle="none", markeredgecolor="white", **style)
    if not panel.has_data():
        panel.text(0.5, 0.5, "not known", ha="center", transform=panel.transAxes)
        return
    places = [x for x in map(place, rows) if x]
    if max(places) > 2 * min(places):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        panel.set_xlim(min(places) / 1.25, max(places) * 1.25)
    else:
        panel.margins(x=0.15)


def _label(row: Row) -> str:
    return row.name if len(row.seeds) == 1 else f"{row.name} (mean of {len(row.seeds)})"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    """Returns a marker that makes a colour that comes again another one."""
    return MARKERS[(number // len(COLOURS) + number) % len(MARKERS)]
