"""Evaluation without training: any checkpoint on the data of a config."""

import contextlib
import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax.config import default_config, resolve
from vit_jax.errors import UserError
from vit_jax.evaluation.classification import Results
from vit_jax.pretrained.load import load_weights
from vit_jax.training.experiment import build, named_source
from vit_jax.training.initial import newest_facts, told, with_weights
from vit_jax.training.loop import HeldOut
from vit_jax.training.records import write_whole
from vit_jax.training.run import require_writable


def evaluate(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Evaluates the workdir's newest checkpoint, or `init_from`, without any training.

    Writes `evaluation.json` (metrics and accuracy by class) and `confusion.csv` to the workdir.

    Raises:
      UserError: there is no checkpoint, or it does not fit the config.
    """
    checkpoint = evaluated_checkpoint(config.get("init_from"), workdir)
    weights = load_weights(checkpoint, **told(config))
    config = resolve(config, weights, whole=True)
    source = named_source(config, "eval_split")
    experiment = build(evaluated_only(config), source)
    if weights.classes != len(source.class_names):
        raise UserError(
            f"{weights.source} has {weights.classes} classes, {config.data.name} has {len(source.class_names)}"
        )
    state = with_weights(experiment, experiment.init(), weights, whole=True)
    with contextlib.closing(HeldOut(experiment, source)) as held_out:
        results = held_out.measure(state)
    require_writable(workdir)
    metrics = results.metrics()
    if jax.process_index() == 0:
        write_evaluation(workdir, checkpoint, results, list(source.class_names))
        lost = f", {metrics['unreadable']:,} unreadable" if metrics["unreadable"] else ""
        print(f"{checkpoint} on {config.data.name} {config.data.eval_split} ({metrics['examples']:,} images{lost}):")
        print("  ".join(f"eval/{name} {metrics[name]:.4f}" for name in ("loss", "top5", "top1")))
        print(f"by class {workdir}/evaluation.json  confusion matrix {workdir}/confusion.csv", flush=True)
    return metrics


def evaluated_checkpoint(init_from: str | None, workdir: str) -> str:
    """Returns what is evaluated: the workdir's newest checkpoint if that run started from `init_from` (or from
    nothing, as the config does), else `init_from`.

    Raises:
      UserError: there is neither.
    """
    facts = newest_facts(workdir)
    if facts is not None and (init_from is None or facts["config"].get("init_from") == init_from):
        return workdir
    if init_from is None:
        raise UserError(f"{workdir} holds no checkpoint to evaluate; train first, or set init_from")
    return init_from


def evaluated_only(config: ConfigDict) -> ConfigDict:
    """Returns a config without what only training needs, which may not fit the evaluation's data."""
    config = config.copy_and_resolve_references()
    config.train.duration, config.train.accumulate, config.train.class_weights = "1 steps", 1, None
    config.train.batch_size = config.eval.batch_size
    config.train.ema_decay = None
    config.data.classes = None  # of the source they have been taken already
    config.surgery.new_head = False
    config.lora = default_config().lora
    config.distill = default_config().distill
    config.optimizer = default_config().optimizer
    config.schedule = default_config().schedule
    return config


def write_evaluation(workdir: str, checkpoint: str, results: Results, class_names: list[str]) -> None:
    """Writes metrics, accuracy by class, and the confusion matrix (rows are true classes)."""
    counts = results.confusion(len(class_names))
    totals = np.bincount(results.label, minlength=len(class_names))
    by_class = {
        name: {"accuracy": counts[i, i] / totals[i] if totals[i] else None, "examples": int(totals[i])}
        for i, name in enumerate(class_names)
    }
    report = {"checkpoint": checkpoint, **results.metrics(), "classes": by_class}
    write_whole(pathlib.Path(workdir) / "evaluation.json", json.dumps(report, indent=2) + "\n")
    header = ",".join(["true \\ predicted", *(json.dumps(name) for name in class_names)])
    rows = [header, *(",".join([json.dumps(n), *map(str, row)]) for n, row in zip(class_names, counts, strict=True))]
    write_whole(pathlib.Path(workdir) / "confusion.csv", "\n".join(rows) + "\n")
