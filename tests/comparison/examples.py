"""Workdirs as runs leave them, without the training."""

import functools
import json
import pathlib

from tests.training.conftest import small_config
from vit_jax.config import flatten, resolve
from vit_jax.training.records import METRICS_FILE

EXAMPLES, STEPS = 1_437, 12


@functools.cache
def resolved_config() -> dict[str, object]:
    """Returns the small config, flattened; it is not to be changed in place."""
    return flatten(resolve(small_config()))


def workdir(folder: pathlib.Path, name: str, top1=(0.5, 0.75), step: int = STEPS, best: dict | None = None, **keys):
    """Writes what a run on digits leaves that is compared, with the config's keys `group__key` set; returns its path.

    Args:
      top1: of evaluations at equal distances up to `step`.
      best: step and accuracy of the best validation, as the checkpoint has it.
    """
    place = folder / name
    (place / "checkpoints" / str(step) / "run").mkdir(parents=True)
    config = resolved_config() | {key.replace("__", "."): value for key, value in keys.items()}
    classes = [str(i) for i in range(10)]
    facts = {"config": config, "class_names": classes, "examples": EXAMPLES, "image_size": [8, 8], "best": best}
    (place / "checkpoints" / str(step) / "run" / "metadata").write_text(json.dumps(facts))
    records = [{"step": step * i // len(top1), "eval/top1": value} for i, value in enumerate(top1, 1)]
    records += [{"step": step, "train/images_per_second": speed} for speed in (100.0, 300.0, 120.0)]
    lines = sorted(records, key=lambda record: record["step"])
    (place / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(place)
