"""Running a config: training and continuing, with everything that a workdir holds."""

import contextlib
import gc
import os
import pathlib
import time

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from vit_jax.config import flatten
from vit_jax.config_differences import differences
from vit_jax.data.sources import Source, splits_overlap
from vit_jax.data.subset import subset
from vit_jax.distributed import require_shared
from vit_jax.errors import UserError, explained_writes
from vit_jax.pretrained.weights import Weights
from vit_jax.process import lacks_bfloat16_units
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.experiment import Experiment, build
from vit_jax.training.initial import resolved, with_weights
from vit_jax.training.lock import locked
from vit_jax.training.loop import Loop
from vit_jax.training.records import METRICS_FILE, Records, draw_curves, read_metrics, write_whole
from vit_jax.training.rewind import Past, past_of
from vit_jax.training.state import TrainState


def train(
    config: ConfigDict,
    train: Source | None = None,
    evaluate: Source | None = None,
    workdir: str = "runs/python",
    started: float | None = None,
) -> tuple[TrainState, dict[str, float]]:
    """Trains a config to its end, continuing from the workdir's newest checkpoint where there is one.

    Args:
      train: examples in place of the set that `config.data` names; any random-access source (see
        `vit_jax.data.sources.Source`; `ArraySource` wraps arrays).
      evaluate: likewise for the evaluation split. Of both, `data.classes` are taken.
      started: `time.perf_counter()` at the start of the command, for the time to the first step.

    Returns:
      The last state, and the newest value of every metric.

    Raises:
      UserError: the config, the data or the workdir is not as it must be, or another run is using the workdir.
      vit_jax.training.stopping.Interrupted: SIGTERM or SIGINT came; the state has been saved.
    """
    started = started or time.perf_counter()
    if jax.process_count() > 1:  # whether the run continues is read there, and must be the same for all
        require_writable(workdir)
        require_shared(workdir)
    config, weights = resolved(config, workdir)
    require_writable(workdir)
    with locked(workdir):
        return run(config, weights, train, evaluate, workdir, started)


def run(
    config: ConfigDict,
    weights: Weights | None,
    train: Source | None,
    evaluate: Source | None,
    workdir: str,
    started: float,
) -> tuple[TrainState, dict[str, float]]:
    """Does what `train` says with a resolved config, in a workdir that is its own."""
    experiment = build(config, train)
    validation, evaluation = held_out_sources(experiment, own=train is not None, evaluate=evaluate)
    with contextlib.ExitStack() as closing:
        # Batches of worker processes lie in shared memory. Those that cycles still hold would be reported as leaked.
        closing.callback(gc.collect)
        checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        # Also after an error: a save under way is let end, so that it is not lost with this process.
        closing.callback(checkpoints.close)
        state, past, best = starting_point(experiment, checkpoints, workdir, weights)
        if jax.process_index() == 0:
            if config.model.get("dtype") == "bfloat16" and jax.default_backend() == "cpu" and lacks_bfloat16_units():
                print(
                    "this processor has no bfloat16 units: --config.model.dtype=float32 would be faster here",
                    flush=True,
                )
            write_whole(pathlib.Path(workdir) / "config.json", config.to_json_best_effort(indent=2) + "\n")
        records = Records(workdir, int(state.step), writes=jax.process_index() == 0)
        closing.callback(records.close)
        facts = {
            **run_facts(experiment),
            "best": best,
            "position_resize": weights.position_resize if weights else "linear",
        }
        loop = Loop(experiment, checkpoints, records, facts, validation, evaluation, int(state.step), past, started)
        state = loop.run(state)
    multihost_utils.sync_global_devices("metrics are written")
    metrics = newest_metrics(workdir)
    if jax.process_index() == 0:
        with explained_writes(f"{workdir}/curves.png"):
            draw_curves(workdir)
        say_end(workdir, int(state.step), metrics)
    return state, metrics


def starting_point(
    experiment: Experiment, checkpoints: Checkpoints, workdir: str, weights: Weights | None
) -> tuple[TrainState, Past, dict | None]:
    """Returns the state to train from, what the run has gone back over, and the best validation so far.

    Raises:
      UserError: the workdir's checkpoint belongs to a config with other mathematics, the weights do not fit, or there
        are checkpoints, but none can be read.
    """

    def read(step: int) -> tuple[TrainState, dict, list[str]]:
        facts = checkpoints.facts(step)
        changed = changed_keys(experiment, facts, workdir, step)
        return checkpoints.restore(step, experiment.abstract_state()), facts, changed

    found = checkpoints.newest(read)
    if found is None:
        state = experiment.init()
        return (state if weights is None else with_weights(experiment, state, weights)), Past(), None
    newest, (state, facts, changed) = found
    if jax.process_index() == 0:
        said = f" ({'; '.join(changed)})" if changed else ""
        print(f"continuing {workdir} from step {newest} of {experiment.clock.total_steps}{said}", flush=True)
    return state, past_of(workdir, newest, facts), facts.get("best")


def changed_keys(experiment: Experiment, facts: dict, workdir: str, step: int) -> list[str]:
    """Returns what differs from the config of a checkpoint and may.

    Raises:
      UserError: the mathematics differ, or the data do.
    """
    now = run_facts(experiment)
    allowed, refused = differences(facts["config"], now["config"])
    refused += [
        f"data {key} was {facts[key]}, is {now[key]}" for key in ("class_names", "examples") if facts[key] != now[key]
    ]
    if refused:
        raise UserError(
            f"workdir {workdir} holds step {step} of another config: {'; '.join(refused)}. "
            "Take another --workdir, or remove this one"
        )
    return allowed


def run_facts(experiment: Experiment) -> dict:
    """Returns what a checkpoint says of its run, and what a run that continues from it must share."""
    return {
        "config": flatten(experiment.config),
        "class_names": list(experiment.source.class_names),
        "examples": len(experiment.source),
        "image_size": list(experiment.transform.size),
    }


def held_out_sources(experiment: Experiment, own: bool, evaluate: Source | None) -> tuple[Source | None, Source]:
    """Returns the validation source, where the config asks for one, and the evaluation source.

    Args:
      own: the training examples are the caller's, not those of a named set.
      evaluate: the caller's evaluation examples, or None.

    Raises:
      UserError: there is no validation where early stopping needs one, it shares examples with the training or the
        evaluation, or data of the caller's are to be judged by those of a named set.
    """
    data = experiment.config.data
    if experiment.config.train.early_stopping is not None and data.val_split is None:
        raise UserError(
            "train.early_stopping needs data.val_split, a part held out of training: "
            "for example data.train_split='train[:98%]' and data.val_split='train[98%:]'"
        )
    if own and (evaluate is None or data.val_split is not None):
        raise UserError("with your own training data, pass `evaluate` too, and leave data.val_split None")
    if data.val_split is not None:
        for key in ("train_split", "eval_split"):
            if splits_overlap(data.name, data.val_split, data[key], data.dir):
                raise UserError(f"data.val_split {data.val_split!r} shares examples with data.{key} {data[key]!r}")
    validation = experiment.held_out("val_split") if data.val_split else None
    evaluation = experiment.held_out("eval_split") if evaluate is None else subset(evaluate, data.classes)
    if list(evaluation.class_names) != list(experiment.source.class_names):
        raise UserError("the classes of the evaluation data are not those of the training data, in that order")
    return validation, evaluation


def newest_metrics(workdir: str) -> dict[str, float]:
    """Returns the newest value of every metric in a workdir."""
    newest = {}
    for record in read_metrics(workdir):
        newest |= {name: value for name, value in record.items() if name != "step"}
    return newest


def say_end(workdir: str, step: int, metrics: dict[str, float]) -> None:
    """Prints the final metrics and where everything is."""
    shown = ("train/loss", "val/top1", "eval/loss", "eval/top5", "eval/top1")
    print(f"trained to step {step}: " + "  ".join(f"{name} {metrics[name]:.4f}" for name in shown if name in metrics))
    print(f"metrics {workdir}/{METRICS_FILE}  curves {workdir}/curves.png  events {workdir}/tensorboard")
    print(f"checkpoints {workdir}/checkpoints  config {workdir}/config.json", flush=True)


def require_writable(workdir: str) -> None:
    """Makes a workdir. Raises a `UserError` where it cannot be made or written to."""
    reason = None
    if "://" in workdir:
        raise UserError(f"workdir {workdir!r}: only a folder of a file system can be a workdir so far")
    try:
        os.makedirs(workdir, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            reason = "permission denied"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"cannot write to workdir {workdir!r}: {reason}; choose another with --workdir")
