"""How predictions are written: a table for people, CSV and JSON for programs, all of them line by line as they come."""

import csv
import json
import math
from typing import NamedTuple, TextIO

import numpy as np
from jaxtyping import Float

from vit_jax.data.folder_tables import shown


class Ranked(NamedTuple):
    """One class that a model gives for an image.

    Attributes:
      label: its number, from 0.
      name: its name, or its number as text where the model has no class names.
      probability: from 0 to 1, or not a number where the model's answer is none.
    """

    label: int
    name: str
    probability: float


def ranked(probabilities: Float[np.ndarray, "classes"], names: list[str] | None, top: int) -> list[Ranked]:
    """Returns the `top` likeliest classes, the likeliest first; all of them where there are fewer."""
    order = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return [Ranked(label, names[label] if names else str(label), float(probabilities[label])) for label in order]


class Table:
    """The path of each image with its classes below it; with one class only, all on one line."""

    def __init__(self, out: TextIO):
        self.out = out

    def write(self, path: str, classes: list[Ranked]) -> None:
        """Writes one image."""
        lines = [f"{100 * one.probability:5.1f} %  {shown(one.name)}" for one in classes]
        separator = "\n  " if len(lines) > 1 else "  "
        self.out.write(separator.join([shown(path), *lines]) + "\n")

    def close(self) -> None:
        """Ends the table."""


class Csv:
    """One row an image: `path,class,probability,class_2,probability_2,…`.

    The first two columns make it a table of labelled files, as `data.name="folder:FILE.csv"` reads it.
    """

    def __init__(self, out: TextIO):
        self.writer = csv.writer(out, lineterminator="\n")
        self.begun = False

    def write(self, path: str, classes: list[Ranked]) -> None:
        """Writes one image."""
        if not self.begun:
            numbered = [f"{name}_{rank}" for rank in range(2, len(classes) + 1) for name in ("class", "probability")]
            self.writer.writerow(["path", "class", "probability", *numbered])
            self.begun = True
        self.writer.writerow([path, *(cell for one in classes for cell in (one.name, f"{one.probability:.6g}"))])

    def close(self) -> None:
        """Ends the rows."""


class Json:
    """One array of objects: `{"path": …, "classes": [{"label": 3, "name": "cat", "probability": 0.98}, …]}`.

    JSON knows no number that is not finite, so null stands for such a probability.
    """

    def __init__(self, out: TextIO):
        self.out = out
        self.separator = "[\n"

    def write(self, path: str, classes: list[Ranked]) -> None:
        """Writes one image."""
        described = [one._replace(probability=_json_number(one.probability))._asdict() for one in classes]
        self.out.write(self.separator + json.dumps({"path": path, "classes": described}))
        self.separator = ",\n"

    def close(self) -> None:
        """Ends the array."""
        self.out.write("[]\n" if self.separator.startswith("[") else "\n]\n")


def _json_number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


FORMATS = {"table": Table, "json": Json, "csv": Csv}
