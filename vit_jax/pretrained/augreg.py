"""The 50,000 files of "How to train your ViT?" (Steiner et al. 2022), and which of them a short name means.

`index.csv` beside them has a row for each fine-tuning; its pre-training is repeated in every row. Files are named
`B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0`, and fine-tuned ones continue
`--imagenet2012-steps_20k-lr_0.03-res_384`.
"""

import csv
import dataclasses
import math
import pathlib
import re

from vit_jax.errors import UserError, nearest
from vit_jax.pretrained.download import cache_path, fetch

FOLDER = "augreg"
ROOT = "gs://vit_models/augreg"
MODELS = ("Ti_16", "S_32", "S_16", "B_32", "B_16", "B_8", "L_16", "R_Ti_16", "R26_S_32", "R50_L_32")
CLASSES = {"i1k": "imagenet", "i21k": "imagenet21k", "imagenet2012": "imagenet"}
COLUMNS = ("ds", "final_val", "filename", "adapt_ds", "adapt_resolution", "adapt_final_val", "adapt_filename")
NAME = re.compile(
    r"\w+-(?P<ds>i1k|i21k)-\d+ep-lr_[\d.]+-aug_\w+-wd_[\d.]+-do_[\d.]+-sd_[\d.]+"
    r"(--(?P<adapt_ds>[\w-]+)-steps_\w+-lr_[\d.]+-res_(?P<size>\d+))?"
)
EXAMPLE = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"


@dataclasses.dataclass(frozen=True)
class File:
    """One of the files: its address, the image size in pixels, and the name of its classes if it has one."""

    address: str
    size: int
    classes: str | None


def choose(name: str) -> File:
    """Returns the file that a name means.

    Args:
      name: a model (`B_16`), whose best pre-training on ImageNet-21k is meant; a model, a data set and perhaps a
        resolution (`B_16/imagenet2012@224`), the best fine-tuning of that pre-training; or a file's name.

    Raises:
      UserError: there is no such file, or the index cannot be downloaded or read.
    """
    file = name.removesuffix(".npz")
    if "-" in file.split("/")[0]:
        return _file(file)
    model, *adapted = file.split("/")
    if model not in MODELS or len(adapted) > 1:
        raise UserError(
            f"AugReg has no model {name!r}{nearest(model, list(MODELS))}; there are {', '.join(MODELS)}, each also as "
            f"{FOLDER}/MODEL/imagenet2012@224, and the names of its files"
        )
    rows = _index()
    trained = [row for row in rows if row["filename"].split("-")[0] == model and row["ds"] == "i21k"]
    best = _best(trained, "final_val", f"pre-training of {model}")
    if not adapted:
        return _file(best["filename"])
    tuned = [row for row in trained if row["filename"] == best["filename"]]
    dataset, _, size = adapted[0].partition("@")
    fitting = [row for row in tuned if _plain(row["adapt_ds"]) == _plain(dataset)]
    fitting = [row for row in fitting if size in ("", row["adapt_resolution"])]
    there = sorted({f"{row['adapt_ds']}@{row['adapt_resolution']}" for row in tuned})
    what = f"fine-tuning {adapted[0]!r} of {model}{nearest(adapted[0], there)}; there are {', '.join(there)}"
    return _file(_best(fitting, "adapt_final_val", what)["adapt_filename"])


def file_at(place: pathlib.Path) -> File | None:
    """Returns the file that has this place in the cache, or None where it is not one of AugReg's."""
    known = place.parent == cache_path(f"{ROOT}/index.csv").parent and NAME.fullmatch(place.stem)
    return _file(place.stem) if known and place.suffix == ".npz" else None


def _file(name: str) -> File:
    parsed = NAME.fullmatch(name)
    if not parsed:
        raise UserError(f"{name!r} is no name of a file of AugReg, such as {EXAMPLE}")
    return File(f"{ROOT}/{name}.npz", int(parsed["size"] or 224), CLASSES.get(parsed["adapt_ds"] or parsed["ds"]))


def _index() -> list[dict[str, str]]:
    """Returns the rows of the index.

    Raises:
      UserError: it cannot be downloaded, or what lies in the cache is something else.
    """
    path = fetch(f"{ROOT}/index.csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; remove it to fetch it again") from error
    if not rows or not all(isinstance(rows[-1].get(column), str) for column in COLUMNS):
        raise UserError(f"{path} is not AugReg's index, with columns {', '.join(COLUMNS)}; remove it to fetch it again")
    return rows


def _best(rows: list[dict[str, str]], column: str, what: str) -> dict[str, str]:
    """Returns the row with the highest figure; rows without one come last, and `what` is named if there are none."""
    if not rows:
        raise UserError(f"AugReg has no {what}")
    return max(rows, key=lambda row: _figure(row[column]))


def _figure(text: str) -> float:
    try:
        figure = float(text)
    except ValueError:
        return -math.inf
    return figure if math.isfinite(figure) else -math.inf


def _plain(dataset: str) -> str:
    return dataset.replace("_", "-").lower()
