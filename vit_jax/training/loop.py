"""The training loop: steps, and between them logging, evaluation and checkpoints."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator

import jax
from tqdm import tqdm

from vit_jax.data.loading import Batch, iterate
from vit_jax.data.sources import Source
from vit_jax.data.unreadable import Unreadable
from vit_jax.distributed import together
from vit_jax.errors import UserError
from vit_jax.evaluation.classification import Results, evaluate
from vit_jax.process import give_back_memory
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.experiment import Experiment
from vit_jax.training.meter import Meter, NonFinite
from vit_jax.training.records import Records
from vit_jax.training.rewind import Past, back
from vit_jax.training.saved import say
from vit_jax.training.sharding import batch_sharding, place
from vit_jax.training.state import TrainState
from vit_jax.training.stopping import Interrupted, StopSignal

WORTH_SAYING = 0.02
"""Share of the time spent waiting for data above which the progress line says so."""


class Loop:
    """One training run, from a state to the end of its training.

    Attributes:
      train_step: that of the experiment, first run when all processes have compiled it.
      facts: what is saved beside every state.
      past: which batches the run has skipped so far; the data position is the step plus their number.
      best: step and top-1 of the best validation so far, or None.
    """

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        records: Records,
        facts: dict,
        validation: Source | None,
        evaluation: Source | None,
        step: int = 0,
        past: Past | None = None,
        started: float | None = None,
    ):
        self.experiment = experiment
        self.train_step = together(experiment.train_step)
        self.checkpoints = checkpoints
        self.records = records
        self.facts = facts
        self.past = past or Past()
        self.best: dict | None = facts.get("best")
        self.started: float | None = started or time.perf_counter()
        self.saved: int | None = None
        self.meter = Meter(experiment.config.train.batch_size)
        self.every = {key: experiment.steps(key) for key in ("train.log_every", "eval.every", "checkpoint.every")}
        every, total = self.every["eval.every"], experiment.clock.total_steps
        evaluations = total // every - step // every + (total % every > 0)
        sources = {part: source for part, source in (("val", validation), ("eval", evaluation)) if source is not None}
        self.held_out = {part: HeldOut(experiment, source, evaluations) for part, source in sources.items()}
        patience = experiment.config.train.early_stopping
        self.patience = None if patience is None else experiment.steps("train.early_stopping")
        self.unreadable = Unreadable(experiment.config.data.max_bad)

    def run(self, state: TrainState) -> TrainState:
        """Trains to the end and returns the last state.

        Raises:
          UserError: the loss is not finite (as often as `train.rewinds` allows), or a checkpoint cannot be written.
          Interrupted: SIGTERM or SIGINT came; the state has been saved.
        """
        step, total = int(state.step), self.experiment.clock.total_steps
        if self.out_of_patience(step):
            return state
        # `disable=None`: no bar where there is no terminal; then `log` prints lines instead.
        hidden = None if jax.process_index() == 0 else True
        bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=hidden)
        with StopSignal() as stop, bar:
            while True:
                try:
                    state, step = self.steps(state, bar, stop)
                    break
                except NonFinite as error:
                    back_from, what = self.past.allowed(error, self.experiment.config), error.what
                # Not in the handler: the error holds the frames of the steps, and with them their state.
                state = self.go_back(back_from, what, bar)
            self.checkpoints.wait()
            if self.out_of_patience(step):
                bar.write(f"stopped early at step {step}: no better validation since step {self.best['step']}")
            elif stop.received and step < total:
                raise Interrupted(stop.received, step)
        return state

    def steps(self, state: TrainState, bar: tqdm, stop: StopSignal) -> tuple[TrainState, int]:
        """Trains to the end, a signal, or the end of patience; returns the last state, which is saved, and its step.

        Raises:
          NonFinite: what a step measured is not; nothing since the last checkpoint is of any use.
        """
        step, total = int(state.step), self.experiment.clock.total_steps
        first, position, layout = step + 1, step + self.past.skipped, batch_sharding(self.experiment.mesh)
        stop_position, workers = total + self.past.skipped, self.experiment.config.data.workers
        batches = iterate(self.experiment.train_batches(), position, stop_position, workers, self.unreadable)
        with contextlib.closing(batches), contextlib.ExitStack() as held_out:
            for part in self.held_out.values():
                held_out.callback(part.close)
            for step, batch in enumerate(self.meter.loaded(until_stopped(batches, stop)), first):
                state, metrics = self.train_step(state, place(batch, layout))
                self.meter.add(step, metrics)
                bar.update()
                self.say_first_step(metrics, step)
                self.log(step - 1, bar)
                self.after_step(state, step, bar, last=step == total)
                if stop.reached() or self.out_of_patience(step):
                    break
            if step < total and self.saved != step:
                self.meter.require_finite()
                self.log(step, bar)
                self.save(state, step)
        return state, step

    def go_back(self, bad: int, what: str, bar: tqdm) -> TrainState:
        """Returns the state of the last checkpoint, to go on from with the batch after that of a step that went wrong.

        Raises:
          UserError: there is no checkpoint yet, or none that can be read.
        """
        found = back(self.checkpoints, self.experiment)
        if found is None:
            raise UserError(f"the {what} at step {bad}, before the first checkpoint: there is nothing to go back to")
        step, (state, best) = found
        self.past.skip(step, bad)
        self.best, self.saved, self.meter = best, step, Meter(self.experiment.config.train.batch_size)
        self.records.cut(step)
        self.records.write(step, self.past.record())
        line = f"the {what} at step {bad}: back to step {step}, past the {bad - step} batches since"
        say(f"{line} ({len(self.past.rewinds)} of train.rewinds={self.experiment.config.train.rewinds})")
        bar.n = step
        bar.refresh()
        return state

    def after_step(self, state: TrainState, step: int, bar: tqdm, last: bool) -> None:
        """Evaluates and saves where that is due; a state that validates better than all before is always saved."""
        evaluates = last or step % self.every["eval.every"] == 0
        saves = last or step % self.every["checkpoint.every"] == 0
        if evaluates or saves:
            # Wait for this step: what is saved is known to be finite, and its record stands before it.
            self.meter.require_finite()
            self.log(step, bar, last)
        if evaluates:
            self.evaluate(state, step, bar)
        if saves or (self.best is not None and self.best["step"] == step):
            self.save(state, step)
        if evaluates or saves:
            give_back_memory()

    def out_of_patience(self, step: int) -> bool:
        """Returns whether an evaluation at this step has found no improvement for as long as `train.early_stopping`."""
        if self.patience is None or self.best is None or step % self.every["eval.every"]:
            return False
        return step - self.best["step"] >= self.patience

    def say_first_step(self, metrics: dict, step: int) -> None:
        """Prints, once, how long the user waited for the first step, compilation included."""
        if self.started is None:
            return
        jax.block_until_ready(metrics)
        if jax.process_index() == 0:
            print(f"step {step} done {time.perf_counter() - self.started:.1f} s after the start", flush=True)
        self.started = None
        self.meter.pause()

    def log(self, step: int, bar: tqdm, last: bool = False) -> None:
        """Writes the training metrics up to a step that has ended, where one is due and not yet written."""
        if step % self.every["train.log_every"] and not last:
            return
        read = self.meter.read(step)
        if not read:
            return
        self.records.write(step, read)
        speed = read.get("train/images_per_second")
        shown = {"loss": f"{read['train/loss']:.4f}", "images/s": f"{speed:,.0f}" if speed else "-"}
        if read.get("train/data_wait", 0) > WORTH_SAYING:
            shown["waiting for data"] = f"{read['train/data_wait']:.0%}"
        bar.set_postfix(shown)
        if bar.disable and jax.process_index() == 0:
            print(f"step {step}/{bar.total}  " + "  ".join(f"{k} {v}" for k, v in shown.items()), flush=True)

    def evaluate(self, state: TrainState, step: int, bar: tqdm) -> None:
        """Measures the held-out splits and keeps the best validation in mind."""
        for part, held_out in self.held_out.items():
            measured = held_out.measure(state).metrics()
            self.records.write(
                step, {f"{part}/{name}": value for name, value in measured.items() if name != "examples"}
            )
            line = f"step {step}  {part} top-1 {100 * measured['top1']:.2f} %  loss {measured['loss']:.4f}"
            if jax.process_index() == 0:
                lost = f", {measured['unreadable']:,} unreadable" if measured["unreadable"] else ""
                bar.write(f"{line}  ({measured['examples']:,} images{lost})", file=sys.stdout)
            if part == "val" and (self.best is None or measured["top1"] > self.best["top1"]):
                self.best = {"step": step, "top1": measured["top1"]}
        self.meter.pause()

    def save(self, state: TrainState, step: int) -> None:
        """Saves a state; with its validation where that is the best so far.

        Only strictly better ones carry it, so that the best checkpoint is the first of equals, as `best` has it.
        """
        best = self.best if self.best is not None and self.best["step"] == step else None
        facts = {**self.facts, "best": self.best, **self.past.facts()}
        self.checkpoints.save(state, step, step + self.past.skipped, facts, best)
        self.saved = step
        self.meter.pause()


def until_stopped(batches: Iterator[Batch], stop: StopSignal) -> Iterator[Batch]:
    """Yields the batches; a signal that has also ended the loading processes ends them quietly.

    Not where several processes have to reach the same step.
    """
    try:
        yield from batches
    except Exception:
        if stop.received is None or stop.several:
            raise


class HeldOut:
    """A split to measure on several times: what loads it stays at work between the measurements.

    Attributes:
      times: how many measurements there will be at most. Worker processes load ahead to the end of the last, and no
        further: what they hold ready when they are stopped is lost memory until the program ends.
    """

    def __init__(self, experiment: Experiment, source: Source, times: int = 1):
        self.experiment, self.source, self.times = experiment, source, times
        self.eval_step = together(experiment.eval_step)
        self.batches = experiment.eval_batches(source)
        self.unreadable = Unreadable(experiment.config.data.max_bad)
        self.loading: Iterator[Batch] | None = None

    def close(self) -> None:
        """Ends what loads it."""
        if self.loading is not None:
            self.loading.close()
            self.loading = None

    def measure(self, state: TrainState) -> Results:
        """Returns the results of the evaluated parameters on every example that can be read.

        Raises:
          UserError: none can, or more than `data.max_bad` can not.
        """
        if self.loading is None:
            workers = self.experiment.config.data.workers
            self.loading = iterate(self.batches, 0, self.times * len(self.batches), workers, self.unreadable)
        layout = batch_sharding(self.experiment.mesh)
        placed = (place(batch, layout) for batch in itertools.islice(self.loading, len(self.batches)))
        results = evaluate(self.eval_step, state.evaluated, placed)
        results.unreadable = len(self.source) - len(results.rank)
        if not len(results.rank):
            raise UserError(f"none of the {len(self.source)} images to evaluate on can be read")
        return results
