"""Kills a training run at random moments until it has ended, and compares it with an unbroken one.

    python -m tests.faults.kills --kills=50 [--seed=0] [--steps=300]

Each start of the command is killed with SIGKILL at a random time (in start-up, steps, evaluation or a save), and the
same command is given again. At the end the whole state and the evaluations must be those of an unbroken run, bit for
bit, and the records stand at the same steps; the exit status says so. The unbroken run fills a compile cache, which the
others load from.
"""

import argparse
import collections
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

EVAL_EVERY = 9

COMMAND = [
    sys.executable,
    "-m",
    "vit_jax.main",
    "--config=configs/digits.py",
    "--config.train.log_every=3 steps",
    f"--config.eval.every={EVAL_EVERY} steps",
    "--config.eval.batch_size=32",
    "--config.checkpoint.every=4 steps",
    "--config.model.width=16",
    "--config.model.depth=2",
    "--config.model.dropout=0.1",
    "--config.train.ema_decay=0.9",
]
ROOT = pathlib.Path(__file__).parents[2]


def start(workdir: pathlib.Path, steps: int) -> subprocess.Popen:
    """Starts the command."""
    cache = f"--compile_cache={workdir.parent / 'compiled'}"
    arguments = [*COMMAND, cache, f"--workdir={workdir}", f"--config.train.duration={steps} steps"]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def final_arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns every array of the newest checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    from vit_jax.training.optimizer import path_name
    from vit_jax.training.saved import checkpoint_folder, steps_in

    folder = checkpoint_folder(str(workdir))
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / str(steps_in(folder)[0]) / "state")
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def found_at(workdir: pathlib.Path, said: str) -> str:
    """Returns what a start was doing when it was killed, as far as it can be told from what it left.

    Args:
      said: what this start printed.
    """
    from vit_jax.training.records import read_metrics

    if " done " not in said:
        return "start-up"
    if any("tmp" in path.name for path in (workdir / "checkpoints").glob("*")):
        return "save"
    records = read_metrics(str(workdir))
    # At such a step the training's record is written, then the evaluation's.
    evaluates = records and records[-1]["step"] % EVAL_EVERY == 0 and "eval/top1" not in records[-1]
    return "evaluation" if evaluates else "steps"


def steps_done(workdir: pathlib.Path) -> int:
    """Returns the step of the last record, or 0."""
    from vit_jax.training.records import read_metrics

    records = read_metrics(str(workdir))
    return records[-1]["step"] if records else 0


def start_up_seconds(workdir: pathlib.Path) -> float:
    """Returns how long an unbroken run took to its first step."""
    log = (workdir.parent / f"{workdir.name}.log").read_text()
    return float(re.search(r"step 1 done ([\d.]+) s after", log)[1])


def run_whole(workdir: pathlib.Path, steps: int) -> float:
    """Runs the command to its end and returns its seconds."""
    began = time.perf_counter()
    if status := start(workdir, steps).wait():
        raise SystemExit(f"{workdir} ended with status {status}; see {workdir.parent / workdir.name}.log")
    return time.perf_counter() - began


def kill_until_done(
    workdir: pathlib.Path, steps: int, kills: int, start_up: float, training: float, rng: random.Random
) -> tuple[float, collections.Counter]:
    """Runs and kills the command `kills` times, then lets it end.

    Every third kill, on average, comes in start-up; the others spread over what is left of the training, so that it
    does not end before the last, whatever else slows the machine down or does so no longer.

    Args:
      start_up: seconds of the unbroken run to its first step.
      training: its seconds after that.

    Returns:
      The seconds of all starts together, and in what the kills came.
    """
    began, moments = time.perf_counter(), collections.Counter()
    log = workdir.parent / f"{workdir.name}.log"
    for number in range(kills):
        read = log.stat().st_size if log.exists() else 0
        process = start(workdir, steps)
        in_start_up = rng.random() < 1 / 3
        left = training * (1 - steps_done(workdir) / steps) / (kills - number)
        while not in_start_up and process.poll() is None and " done " not in log.read_text()[read:]:
            time.sleep(0.05)
        try:
            if process.wait(rng.uniform(0, start_up if in_start_up else 1.5 * left)):
                raise SystemExit(f"start {number + 1} failed before its kill; see {log}")
            doing = "nothing (the run had ended before)"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            doing = found_at(workdir, log.read_text()[read:])
        moments[doing] += 1
        print(f"kill {number + 1} in {doing}", flush=True)
    run_whole(workdir, steps)
    return time.perf_counter() - began, moments


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
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vit_jax_kills_"))
    os.environ["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "")
    whole, broken = folder / "whole", folder / "broken"
    unbroken = run_whole(whole, flags.steps)
    start_up, rng = start_up_seconds(whole), random.Random(flags.seed)
    seconds, moments = kill_until_done(broken, flags.steps, flags.kills, start_up, unbroken - start_up, rng)
    wrong = compare(whole, broken)
    lost = (seconds - unbroken) / flags.kills
    print(f"kills in {', '.join(f'{doing} {count}' for doing, count in moments.most_common())}")
    print(f"unbroken {unbroken:.1f} s; with {flags.kills} kills {seconds:.1f} s ({lost:.1f} s a kill)")
    print("bit-identical" if not wrong else f"DIFFERENT: {', '.join(wrong)}")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
