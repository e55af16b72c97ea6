"""Kills a training run at random moments until it has ended, and compares it with an unbroken one.

    python -m tests.faults.kill_runs --kills=10 [--seed=0] [--steps=240]

Each start of the command is killed with SIGKILL after a random time (in start-up, steps, evaluation or a save), and the
same command is given again. At the end the whole state and the evaluations must be those of an unbroken run, bit for
bit, and the records stand at the same steps; the exit status says so.
"""

import argparse
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

COMMAND = [
    sys.executable,
    "-m",
    "vit_jax.main",
    "--config=configs/digits.py",
    "--config.train.log_every=7 steps",
    "--config.eval.every=11 steps",
    "--config.checkpoint.every=3 steps",
    "--config.model.width=16",
    "--config.model.dropout=0.1",
    "--config.train.ema_decay=0.9",
]
ROOT = pathlib.Path(__file__).parents[2]


def start(workdir: pathlib.Path, steps: int) -> subprocess.Popen:
    """Starts the command."""
    arguments = [*COMMAND, f"--workdir={workdir}", f"--config.train.duration={steps} steps"]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def final_arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    from vit_jax.training.checkpoint import Checkpoints
    from vit_jax.training.optimizer import path_name

    newest = Checkpoints(str(workdir), keep=10**6).latest()
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir / "checkpoints" / str(newest) / "state")
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def checkpoint_steps(workdir: pathlib.Path) -> list[str]:
    """Returns the names in the checkpoint folder, unfinished saves included."""
    folder = workdir / "checkpoints"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def longest_life(whole: pathlib.Path, seconds: float, kills: int) -> float:
    """Returns how long a start may live, so that the kills spread over start-up and the whole training.

    Args:
      whole: the workdir of the unbroken run.
      seconds: how long that took.
    """
    log = (whole.parent / f"{whole.name}.log").read_text()
    start_up = float(re.search(r"step 1 done ([\d.]+) s after", log)[1])
    return start_up + 3 * (seconds - start_up) / kills


def kill_until_done(workdir: pathlib.Path, steps: int, kills: int, longest: float, rng: random.Random) -> float:
    """Runs and kills the command `kills` times, then lets it end; returns the seconds of all starts together."""
    began = time.perf_counter()
    for number in range(kills):
        process = start(workdir, steps)
        moment = rng.uniform(0, longest)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        print(f"kill {number + 1} after {moment:.2f} s; checkpoints {checkpoint_steps(workdir)}", flush=True)
    status = start(workdir, steps).wait()
    if status:
        raise SystemExit(f"the last start ended with status {status}; see {workdir.parent}")
    return time.perf_counter() - began


def compare(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Returns what differs between two finished runs."""
    from vit_jax.training.records import read_metrics

    first, second = final_arrays(one), final_arrays(other)
    wrong = [name for name in first.keys() | second.keys() if not np.array_equal(first.get(name), second.get(name))]
    metrics = [read_metrics(str(workdir)) for workdir in (one, other)]
    # Speeds differ, of course; and the mean loss of a record is taken since the one before, of which a run that
    # continues in between knows its part only.
    steps = [[record["step"] for record in records] for records in metrics]
    evaluations = [[r for r in records if "eval/top1" in r] for records in metrics]
    if steps[0] != steps[1] or evaluations[0] != evaluations[1]:
        wrong.append("metrics.jsonl")
    return wrong


def main() -> int:
    """Runs the comparison and returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240)
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vit_jax_kills_"))
    os.environ["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "")
    whole, broken = folder / "whole", folder / "broken"
    unbroken_seconds = kill_until_done(whole, flags.steps, 0, 0, random.Random())
    longest = longest_life(whole, unbroken_seconds, flags.kills)
    seconds = kill_until_done(broken, flags.steps, flags.kills, longest, random.Random(flags.seed))
    wrong = compare(whole, broken)
    lost = (seconds - unbroken_seconds) / max(flags.kills, 1)
    print(f"unbroken {unbroken_seconds:.1f} s; with {flags.kills} kills {seconds:.1f} s ({lost:.1f} s a kill)")
    print("bit-identical" if not wrong else f"DIFFERENT: {', '.join(wrong)}")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
