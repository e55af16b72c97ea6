"""What a run writes for people: metrics.jsonl, TensorBoard events, a progress bar, curves.png."""

import contextlib
import json
import math
import os
import pathlib
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from vit_jax.errors import explained_writes
from vit_jax.training.saved import say

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: str) -> list[dict]:
    """Returns the records of a run, oldest first, up to the first line that is none."""
    return sound_records(workdir)[0]


def sound_records(workdir: str) -> tuple[list[dict], int | None]:
    """Returns the records up to the first line that is none, and the number of that line, from 1.

    The number is None where there is no such line, or where it is one that a kill has cut off: a last one without end.
    """
    path = pathlib.Path(workdir) / METRICS_FILE
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for line in lines:
        record = _record(line)
        if record is None:
            break
        records.append(record)
    return records, len(records) + 1 if len(records) < len(lines) - 1 else None


def _record(line: bytes) -> dict | None:
    """Returns what a line holds, or None where that is no record."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or lists in lists without end
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def cut_metrics(workdir: str, step: int) -> None:
    """Removes the records after a step, atomically: what a continued run will write again."""
    records, damaged = sound_records(workdir)
    kept = [record for record in records if record["step"] <= step]
    path = pathlib.Path(workdir) / METRICS_FILE
    if damaged is not None:
        say(f"{path} is damaged at line {damaged}: what it held from there on is dropped")
    if path.exists():
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file that is never seen half written. Raises a `UserError` where it cannot be written."""
    with explained_writes(str(path)):
        replacement = path.with_suffix(".tmp")
        replacement.write_text(text)
        os.replace(replacement, path)


class Events:
    """TensorBoard events, written when they are handed over: no thread whose failure nobody hears of."""

    def __init__(self, directory: pathlib.Path, start: int):
        directory.mkdir(exist_ok=True)
        self.writer = EventsWriter(str(directory / "events"))
        # What an earlier start wrote after this step is hidden.
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self.writer.write_event(event_pb2.Event(step=start + 1, session_log=restart, wall_time=time.time()))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of one step."""
        for name, value in metrics.items():
            event = event_pb2.Event(step=step, wall_time=time.time(), summary=scalar(name, value))
            self.writer.write_event(event)
        self.writer.flush()


class Records:
    """Writes metrics of one run, on the first host only."""

    def __init__(self, workdir: str, start: int, writes: bool = True):
        """Opens the files, without the records after the step `start`.

        Raises:
          UserError: they cannot be written.
        """
        self.writes, self.workdir = writes, workdir
        self.what = f"metrics in {workdir}"
        if writes:
            with explained_writes(self.what):
                self.open(start)

    def open(self, start: int) -> None:
        cut_metrics(self.workdir, start)
        self.file = (pathlib.Path(self.workdir) / METRICS_FILE).open("a", buffering=1)
        self.events = Events(pathlib.Path(self.workdir) / "tensorboard", start)

    def cut(self, step: int) -> None:
        """Removes the records after a step, to which the run has gone back.

        Raises:
          UserError: they cannot be written.
        """
        self.close()
        if self.writes:
            with explained_writes(self.what):
                self.open(step)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one record. Values that are not finite are written as null, which JSON has.

        Raises:
          UserError: there is no room.
        """
        if not self.writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with explained_writes(self.what):
            self.file.write(json.dumps({"step": step, **finite}) + "\n")
            self.events.write(step, metrics)

    def close(self) -> None:
        """Closes the files. Every record has been flushed as it was written."""
        if self.writes:
            with contextlib.suppress(OSError):
                self.file.close()
                self.events.writer.close()


def draw_curves(workdir: str) -> pathlib.Path | None:
    """Draws loss and accuracy against the step to `curves.png` and returns its path, or None without records."""
    records = read_metrics(workdir)
    series = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and value is not None:
                series.setdefault(name, []).append((record["step"], value))
    if not series:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = (
        ("loss", "cross-entropy", 1.0),
        ("top1", "top-1 accuracy (%)", 100.0),
        ("learning_rate", "learning rate", 1.0),
    )
    for axis, (quantity, label, scale) in zip(figure.subplots(1, 3), panels, strict=True):
        for part, name, colour in (
            ("train", "training", "C0"),
            ("val", "validation", "C2"),
            ("eval", "evaluation", "C1"),
        ):
            if points := series.get(f"{part}/{quantity}"):
                steps, values = zip(*points, strict=True)
                marker = "." if part != "train" and len(points) < 60 else None
                axis.plot(steps, [scale * v for v in values], color=colour, label=name, marker=marker, linewidth=1.2)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if quantity == "top1" and (finals := series.get("eval/top1")):
            axis.set_title(f"last: {100 * finals[-1][1]:.2f} %", fontsize=10, loc="left")
        if axis.get_legend_handles_labels()[0] and quantity != "learning_rate":
            axis.legend(frameon=False)
    path = pathlib.Path(workdir) / "curves.png"
    figure.savefig(path, dpi=120)
    return path
