"""What a run writes for people: metrics.jsonl, TensorBoard events, a progress bar, curves.png."""

import json
import math
import os
import pathlib

from vit_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: str) -> list[dict]:
    """Returns the records of a run, oldest first; a last line that was cut off by a kill is left out."""
    path = pathlib.Path(workdir) / METRICS_FILE
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def cut_metrics(workdir: str, step: int) -> None:
    """Removes the records after a step, atomically: what a continued run will write again."""
    kept = [record for record in read_metrics(workdir) if record["step"] <= step]
    path = pathlib.Path(workdir) / METRICS_FILE
    if path.exists():
        replacement = path.with_suffix(".tmp")
        replacement.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(replacement, path)


class Records:
    """Writes metrics of one run, on the first host only."""

    def __init__(self, workdir: str, start: int, writes: bool = True):
        from tensorboardX import SummaryWriter

        self.writes = writes
        if not writes:
            return
        cut_metrics(workdir, start)
        try:
            self.file = (pathlib.Path(workdir) / METRICS_FILE).open("a", buffering=1)
            self.events = SummaryWriter(
                str(pathlib.Path(workdir) / "tensorboard"), purge_step=start + 1, write_to_disk=True
            )
        except OSError as error:
            raise UserError(f"cannot write metrics in {workdir}: {error.strerror}") from error

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one record. Values that are not finite are written as null, which JSON has."""
        if not self.writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in metrics.items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self.writes:
            self.file.close()
            self.events.close()


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
