"""A comparison as text: a table for people, Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from vit_jax.comparison.rows import Row, Spread
from vit_jax.measurement.text import aligned

COLUMNS: dict[str, Callable[[Row], str]] = {
    "run": lambda row: row.name,
    "seeds": lambda row: str(len(row.seeds)),
    "parameters": lambda row: f"{row.parameters:,}",
    "GFLOP/image": lambda row: f"{row.gflop:.3g}",
    "images/s": lambda row: "-" if row.images_per_second is None else written(row.images_per_second, 1, ",.0f"),
    "epochs": lambda row: written(row.epochs if row.epochs.std else Spread(row.epochs.mean, None), 1, ".4g"),
    "last top-1 %": lambda row: written(row.top1, 100, ".2f"),
    "best top-1 %": lambda row: written(row.best_top1, 100, ".2f"),
}


def written(value: Spread, scale: float, digits: str) -> str:
    """Returns `81.25 ± 0.31`; the mean alone where there is no spread."""
    mean = format(scale * value.mean, digits)
    return mean if value.std is None else f"{mean} ± {format(scale * value.std, digits)}"


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the headings and the rows, as text."""
    return [list(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]


def table(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Returns aligned columns, with the notes below."""
    legend = ["mean ± standard deviation over the seeds"] if any(row.top1.std is not None for row in rows) else []
    return "\n".join([*aligned(cells(rows)), *legend, *(f"note: {note}" for note in notes)])


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Returns a table as Markdown has it, with the notes below."""
    heading, *body = [[cell.replace("|", "\\|") for cell in row] for row in cells(rows)]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (heading, rule, *body)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def described(row: Row) -> dict[str, object]:
    """Returns the figures of a row by name, accuracies from 0 to 1; what is not known is None."""
    figures: dict[str, object] = {"name": row.name, "seeds": len(row.seeds), "parameters": row.parameters}
    figures["gflop_per_image"] = row.gflop
    for name in ("images_per_second", "epochs", "top1", "best_top1"):
        value = getattr(row, name)
        figures[name] = None if value is None else value.mean
        figures[f"{name}_std"] = None if value is None else value.std
    return figures


def as_csv(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Returns one line a row, under the names of the figures; CSV has no place for notes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(described(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(described, rows))
    return text.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """Returns one object: the rows, with their runs and curves, and the notes."""
    whole = [
        {
            **described(row),
            "runs": [{"name": name, "seed": seed} for name, seed in zip(row.members, row.seeds, strict=True)],
            "curve": [{"epoch": epoch, "top1": top1} for epoch, top1 in row.curve],
        }
        for row in rows
    ]
    return json.dumps({"rows": whole, "notes": list(notes)}, indent=2)


FORMATS: dict[str, Callable[[Sequence[Row], Sequence[str]], str]] = {
    "table": table,
    "markdown": markdown,
    "csv": as_csv,
    "json": as_json,
}
