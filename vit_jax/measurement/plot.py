"""A picture of a benchmark: time of a call and memory by image size, depth or batch size."""

import math
import pathlib

from vit_jax.errors import UserError, explained_writes

AXIS_LABELS = {"image_size": "tokens", "depth": "blocks", "batch_size": "batch size"}
"""Axes that are numbers, and what is drawn along x."""

PANELS = {"milliseconds": "ms a call", "peak_mebibytes": "memory of the program, MiB"}

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7b3294", "#8c564b", "#444444", "#e7298a", "#17a2b8")
MARKERS = ("o", "s", "^", "D")
"""Of series in turn; a marker stays for one round of the colours, so that no two of 32 series look alike."""


def plot_axis(file: pathlib.Path, axes: dict[str, str]) -> str:
    """Returns the axis with several values that a picture shows.

    Args:
      axes: by name of the flag, values with commas between.

    Raises:
      UserError: the file cannot be a picture, or there is no such axis, or more than one.
    """
    if file.suffix != ".png":
        raise UserError(f"--plot writes a .png file, not {file}")
    if not file.parent.is_dir():
        raise UserError(f"--plot={file}: there is no folder {file.parent}")
    several = [axis for axis in AXIS_LABELS if "," in axes.get(axis, "")]
    if len(several) != 1:
        choices = ", ".join(f"--{axis}" for axis in AXIS_LABELS)
        raise UserError(f"--plot draws along one axis; give exactly one of {choices} several values")
    return several[0]


def write_plot(file: pathlib.Path, axis: str, found: dict[str, object]) -> None:
    """Draws milliseconds of a call and memory of its program, on logarithmic axes, one line a series.

    Image sizes stand as tokens. There, the dashed line is where attention's q·kᵀ and p·v, which grow with the square of
    the tokens, take as many operations as all else.

    Args:
      axis: from `plot_axis`.
      found: from `vit_jax.measurement.report.as_json`.

    Raises:
      UserError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    for panel, (key, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        drawn = _draw_series(panel, found["cases"], axis, key)
        _label_axes(panel, sorted(drawn), AXIS_LABELS[axis], label)
        if axis == "image_size" and drawn:
            for tokens in crossings(found["cases"]):
                _mark(panel, tokens)
    step = "a training step" if found["mode"] == "train" else "a forward pass"
    figure.suptitle(f"{step} on {found['devices']} x {found['device']}", fontsize=10)
    with explained_writes(str(file)):
        figure.savefig(file, dpi=150)


def _draw_series(panel, rows: list[dict], axis: str, key: str) -> set[int]:
    """Draws one line a series, and returns where along x there are points."""
    drawn = set()
    for number, (name, members) in enumerate(series_of(rows, axis).items()):
        points = [(place(row, axis), row[key]) for row in members if row[key] is not None]
        if points:
            around, colour = divmod(number, len(COLOURS))
            marker = MARKERS[around % len(MARKERS)]
            panel.plot(*zip(*points, strict=True), f"{marker}-", color=COLOURS[colour], markersize=5, label=name)
            drawn |= {x for x, _ in points}
    if drawn:
        panel.legend(fontsize=8, loc="upper left")
    else:
        panel.text(0.5, 0.5, "not known", ha="center", transform=panel.transAxes)
    return drawn


def _label_axes(panel, places: list[int], along: str, upwards: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    panel.set(xscale="log", yscale="log", xlabel=along, ylabel=upwards)
    panel.set_xticks(places)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    for side in (panel.xaxis, panel.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    panel.grid(which="major", alpha=0.3)


def _mark(panel, tokens: int) -> None:
    """Draws the line of a crossing, its words on the side that has room."""
    panel.axvline(tokens, color="#888888", linestyle="--")
    low, high = panel.get_xlim()
    left = tokens * tokens > low * high
    text = f" {tokens:,} tokens: attention's \n square takes half "
    panel.annotate(
        text,
        (tokens, 0.03),
        xycoords=("data", "axes fraction"),
        ha="right" if left else "left",
        color="#555555",
        fontsize=8,
    )


def series_of(rows: list[dict], axis: str) -> dict[str, list[dict]]:
    """Returns the rows by what they have in common but the axis, in the order of the axis."""
    series: dict[str, list[dict]] = {}
    for row in rows:
        name = " ".join(word for word in row["name"].split() if not word.startswith(f"{axis}="))
        series.setdefault(name, []).append(row)
    return {name: sorted(members, key=lambda row: place(row, axis)) for name, members in series.items()}


def place(row: dict, axis: str) -> int:
    """Returns where a row stands along x."""
    return row["tokens"] if axis == "image_size" else int(row["settings"][axis])


def crossings(rows: list[dict]) -> list[int]:
    """Returns the tokens at which attention's own products take as much as the rest of the model, one a model.

    Only where they grow with the square of the tokens, as those of some kinds of attention do not. Per token the
    products with weights are constant and attention's own grow with the number of tokens, so any row tells: tokens x
    rest / attention. Its largest images do, where the head's share is smallest.
    """
    found = {}
    for members in series_of(rows, "image_size").values():
        last, settings = members[-1], members[-1]["settings"]
        own = [row["model_attention_gflop_per_image"] for row in (members[0], last)]
        if all(own) and math.isclose(own[0] / members[0]["tokens"] ** 2, own[1] / last["tokens"] ** 2, rel_tol=0.01):
            rest = last["model_gflop_per_image"] - own[1]
            found[settings.get("model"), settings.get("depth")] = round(last["tokens"] * rest / own[1])
    return sorted(set(found.values()))
