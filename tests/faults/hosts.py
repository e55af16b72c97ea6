"""Runs CIFAR-10 in two processes of four simulated devices, kills one, changes meshes, and compares with one process.

    python -m tests.faults.hosts --data_dir=DIR [--steps=30] [--parts=equal,killed,meshes]

`equal`: two processes have the losses and the evaluation of one with eight devices, with `data=8` and with
`fsdp=4,tensor=2`. `killed`: one of the two is killed; the other ends with a clear line within 30 s, and the pair
started again ends as if nothing had been. `meshes`: a run goes on from `data=8` to `fsdp=2,tensor=2,data=2` to one
device. The exit status says whether all was so.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from vit_jax.training.records import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
LOSS_TOLERANCE, EVAL_TOLERANCE, LEAVE_SECONDS = 1e-5, 1e-6, 30
WHOLE, SPLIT, MIXED = "data=8", "data=1,fsdp=4,tensor=2", "data=2,fsdp=2,tensor=2"


@dataclasses.dataclass(frozen=True)
class Command:
    """The command of one run, for any number of processes.

    Attributes:
      arguments: of `vit_jax.main`, without those of several processes.
      cache: folder of compiled programs, so that they are compiled once only.
    """

    arguments: tuple[str, ...]
    cache: pathlib.Path

    def also(self, *arguments: str) -> "Command":
        """Returns the command with more arguments."""
        return dataclasses.replace(self, arguments=(*self.arguments, *arguments))

    def start(self, log: pathlib.Path, devices: int, *arguments: str) -> subprocess.Popen:
        """Starts one process whose output goes to `log`."""
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "GLIBC_TUNABLES": "",
        }
        words = [sys.executable, "-m", "vit_jax.main", *self.arguments, *arguments]
        with log.open("w") as file:
            return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)

    def pair(self, log: pathlib.Path, *second: str) -> list[subprocess.Popen]:
        """Starts two processes of four devices; `second` are arguments of the second alone."""
        port = free_port()
        processes = []
        for index, more in enumerate(((), second)):
            place = (f"--coordinator_address=localhost:{port}", "--process_count=2", f"--process_index={index}")
            processes.append(self.start(log.with_suffix(f".{index}.log"), 4, *place, *more))
        return processes


def free_port() -> int:
    """Returns a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def statuses(processes: list[subprocess.Popen], seconds: float = 900) -> list[int]:
    """Returns the exit statuses; processes that do not end are killed, and count as -9."""
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [process.returncode for process in processes]


def await_step(workdir: pathlib.Path, step: int, processes: list[subprocess.Popen], seconds: float = 900) -> None:
    """Returns once a step stands in the metrics; ends the processes where it does not come."""
    deadline = time.monotonic() + seconds
    while not any(record["step"] >= step for record in read_metrics(str(workdir))):
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise SystemExit(f"step {step} was not reached: statuses {statuses(processes, 0)}; see {workdir.parent}")
        time.sleep(0.1)


def mesh(sizes: str) -> list[str]:
    """Returns the arguments for `data=2,fsdp=2,tensor=2`; axes that are not named are 1."""
    named = {"data": "1", "fsdp": "1", "tensor": "1"} | dict(pair.split("=") for pair in sizes.split(","))
    return [f"--config.mesh.{axis}={size}" for axis, size in named.items()]


def values(workdir: pathlib.Path, name: str) -> dict[int, float]:
    """Returns a metric by step."""
    return {record["step"]: record[name] for record in read_metrics(str(workdir)) if name in record}


def difference(one: pathlib.Path, other: pathlib.Path, name: str) -> float:
    """Returns the largest difference of a metric between two runs; infinite where they stand at different steps."""
    first, second = values(one, name), values(other, name)
    if not first or first.keys() != second.keys():
        return float("inf")
    return max(abs(first[step] - second[step]) for step in first)


class Measurement:
    """The comparisons, each printed as it is made.

    Attributes:
      wrong: those that were not as they must be.
    """

    def __init__(self, command: Command, folder: pathlib.Path, steps: int):
        self.command, self.folder, self.steps, self.wrong = command, folder, steps, []

    def check(self, line: str, right: bool) -> None:
        """Prints what was found and whether it is right."""
        print(f"{'ok   ' if right else 'WRONG'} {line}", flush=True)
        if not right:
            self.wrong.append(line)

    def run(self, name: str, sizes: str, processes: int, *arguments: str, devices: int = 8) -> pathlib.Path:
        """Runs to the end and returns the workdir."""
        workdir = self.folder / name
        command = self.command.also(f"--workdir={workdir}", *mesh(sizes), *arguments)
        began, log = time.perf_counter(), self.folder / f"{name}.log"
        ended = statuses(command.pair(log) if processes == 2 else [command.start(log, devices)])
        print(f"      {name}: statuses {ended} after {time.perf_counter() - began:.0f} s", flush=True)
        if any(ended):
            raise SystemExit(f"{name} did not end well; see {self.folder}")
        return workdir

    def compare(self, what: str, one: pathlib.Path, other: pathlib.Path) -> None:
        """Compares losses, evaluations and, in the mode that only evaluates, counts."""
        loss, eval_loss, top1 = (difference(one, other, name) for name in ("train/loss", "eval/loss", "eval/top1"))
        steps = len(values(one, "train/loss"))
        self.check(f"{what}: loss of {steps} steps differs by {loss:.1e}", loss <= LOSS_TOLERANCE)
        right = top1 == 0 and eval_loss <= LOSS_TOLERANCE
        self.check(f"{what}: last evaluation differs by {top1} in top-1, {eval_loss:.1e} in loss", right)

    def equal(self) -> None:
        """Two processes against one, and one checkpoint evaluated by each."""
        for sizes in (WHOLE, SPLIT):
            one, two = (self.run(f"{sizes}-{count}", sizes, count) for count in (1, 2))
            self.compare(f"{sizes}, two processes and one", one, two)
        reports = []
        for name, sizes, count, devices in (("one", "data=1", 1, 1), ("eight", WHOLE, 1, 8), ("pair", SPLIT, 2, 8)):
            workdir = self.folder / f"evaluated-{name}"
            shutil.copytree(self.folder / f"{WHOLE}-2", workdir)
            self.run(workdir.name, sizes, count, "--mode=eval", devices=devices)
            report = json.loads((workdir / "evaluation.json").read_text())
            reports.append((report, (workdir / "confusion.csv").read_text()))
        spread = max(abs(report["loss"] - reports[0][0]["loss"]) for report, _ in reports)
        same = len({(report["examples"], report["top1"], confusion) for report, confusion in reports}) == 1
        line = f"one checkpoint on one device, eight, and two processes: counts {'equal' if same else 'DIFFER'}"
        self.check(f"{line} ({reports[0][0]['examples']} images), loss differs by {spread:.1e}", same)
        self.check("… to 1e-6", spread <= EVAL_TOLERANCE)

    def killed(self) -> None:
        """Each of the two is killed once, in both meshes; what is started again ends as if nothing had been."""
        for sizes in (WHOLE, SPLIT):
            whole = self.folder / f"{sizes}-2"
            if not whole.exists():
                self.run(whole.name, sizes, 2)
            for victim in (0, 1):
                name = f"{sizes}-kill{victim}"
                workdir, log = self.folder / name, self.folder / f"{name}.log"
                pair = self.command.also(f"--workdir={workdir}", *mesh(sizes)).pair(log)
                await_step(workdir, self.steps // 2, pair)
                pair[victim].send_signal(signal.SIGKILL)
                began = time.perf_counter()
                status = statuses(pair, 120)[1 - victim]
                seconds = time.perf_counter() - began
                last = log.with_suffix(f".{1 - victim}.log").read_text().splitlines()[-1]
                self.check(
                    f"{sizes}: process {victim} killed, the other left after {seconds:.0f} s, status {status}: {last}",
                    status == 1 and seconds < LEAVE_SECONDS and f"process {victim} of 2" in last,
                )
                self.run(name, sizes, 2)
                self.compare(f"{sizes}: killed, continued, and unbroken", whole, workdir)

    def meshes(self) -> None:
        """One training on three meshes."""
        whole, changing = self.folder / f"{WHOLE}-1", self.folder / "meshes"
        if not whole.exists():
            self.run(whole.name, WHOLE, 1)
        third = self.steps // 3
        for step, sizes, devices in ((third, WHOLE, 8), (2 * third, MIXED, 8), (self.steps, "data=1", 1)):
            command = self.command.also(f"--workdir={changing}", *mesh(sizes))
            process = command.start(self.folder / f"meshes-{step}.log", devices)
            if step < self.steps:
                await_step(changing, step - 1, [process])
                process.send_signal(signal.SIGTERM)
            ended = statuses([process])
            saved = sorted(int(path.name) for path in (changing / "checkpoints").iterdir() if path.name.isdecimal())
            print(f"      {sizes}: status {ended[0]}, saved {saved[-1]}", flush=True)
        self.compare("three meshes and one", whole, changing)


def main() -> int:
    """Runs the comparisons and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="of TensorFlow Datasets, with CIFAR-10")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--parts", default="equal,killed,meshes")
    flags = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="vit_jax_hosts_"))
    arguments = (
        "--config=configs/cifar10.py",
        f"--config.data.dir={flags.data_dir}",
        "--config.model.dtype=float32",
        "--config.data.train_split=train[:4000]",
        "--config.data.eval_split=test[:1001]",
        f"--config.train.duration={flags.steps} steps",
        "--config.train.batch_size=64",
        "--config.train.log_every=1 steps",
        "--config.eval.batch_size=200",
        "--config.eval.every=200%",
        f"--config.checkpoint.every={max(flags.steps // 5, 1)} steps",
    )
    measurement = Measurement(Command(arguments, folder / "cache"), folder, flags.steps)
    for part in flags.parts.split(","):
        {"equal": measurement.equal, "killed": measurement.killed, "meshes": measurement.meshes}[part]()
    if measurement.wrong:
        print(f"{len(measurement.wrong)} comparisons are wrong; see {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
