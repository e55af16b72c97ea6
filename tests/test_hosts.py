"""Several processes: joining, rows of a batch, one fate, and two real processes against one."""

import json
import pathlib
import shutil
import signal
import socket
import time
import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import Image

from tests.faults.hosts import (
    SPLIT,
    WHOLE,
    Command,
    Measurement,
    await_step,
    difference,
    free_port,
    mesh,
    statuses,
    values,
)
from vit_jax import distributed, watchdog
from vit_jax.distributed import Cluster, located
from vit_jax.errors import UserError
from vit_jax.main import main
from vit_jax.training import sharding
from vit_jax.training.records import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    "--config=configs/digits.py",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.patch_size=4",
    "--config.optimizer.lr=2e-3",
    "--config.train.batch_size=64",
    "--config.train.log_every=1 steps",
    "--config.eval.batch_size=40",
    "--config.eval.every=200%",
)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A small run, whose programs are compiled once for all tests."""
    return Command(SMALL, tmp_path_factory.mktemp("cache"))


class Store:
    """Keys and values that several watchdogs share, in place of JAX's service."""

    def __init__(self):
        self.values, self.answers = {}, True

    def key_value_set(self, key, value, allow_overwrite=False):
        if not self.answers:
            raise RuntimeError("UNAVAILABLE")
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, key):
        if not self.answers:
            raise RuntimeError("UNAVAILABLE")
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


@pytest.fixture
def dogs(monkeypatch):
    """Makes fast watchdogs whose end is noted in place of ending the tests."""
    monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.05)
    made, ended = [], {}

    def make(store, index, count=3):
        dog = watchdog.Watchdog(store, index, count, patience=0.6)

        def end(status):
            ended[index] = status
            dog.stop()

        dog.end = end
        made.append(dog)
        dog.start()
        return dog

    make.ended = ended
    yield make
    for dog in made:
        dog.stop()


def await_ends(ended, count):
    """Waits until so many watchdogs have ended their process."""
    deadline = time.monotonic() + 20
    while len(ended) < count and time.monotonic() < deadline:
        time.sleep(0.02)


def test_all_leave_when_one_is_silent(dogs, capsys):
    store = Store()
    last = [dogs(store, index) for index in range(3)][-1]
    time.sleep(0.2)
    assert not dogs.ended
    last.stop()
    await_ends(dogs.ended, 2)
    assert dogs.ended == {0: 1, 1: 1}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("process 2 of 3 is gone" in line and "up to the last checkpoint is kept" in line for line in lines)


def test_all_leave_when_the_store_does_not_answer(dogs, capsys):
    store = Store()
    dogs(store, 1)
    store.answers = False
    await_ends(dogs.ended, 1)
    assert dogs.ended == {1: 1}
    assert "process 0 of 3 is gone" in capsys.readouterr().err


def test_a_mistake_of_one_process_is_told_to_all(dogs, capsys):
    store = Store()
    dogs(store, 0, 2)
    dogs(store, 1, 2).fail(UserError("a.png cannot be read"))
    await_ends(dogs.ended, 1)
    assert dogs.ended == {0: 1}  # the one that fails ends in its own way
    assert "process 1 of 2 stopped: a.png cannot be read. Everything" in capsys.readouterr().err


def test_a_broken_collective_waits_for_who_is_gone(dogs, capsys):
    """Its own error would hide that another process died."""
    store = Store()
    first, second = dogs(store, 0, 2), dogs(store, 1, 2)
    second.stop()
    first.fail(RuntimeError("Connection reset by peer"))
    assert dogs.ended == {0: 1}
    assert "process 1 of 2 is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, None), "need --coordinator_address=HOST:PORT and --process_index=I too"),
        (("localhost:1", None, 0), "need --process_count=N too"),
        (("localhost", 2, 0), "must be HOST:PORT, such as 10.0.0.1:8476, not 'localhost'"),
        (("localhost:99999", 2, 0), "must be HOST:PORT"),
        (("localhost:8476", 2, 2), "--process_index 2 does not fit --process_count 2"),
        (("localhost:8476", 0, 0), "--process_index 0 does not fit --process_count 0"),
    ],
)
def test_flags_that_do_not_describe_a_process(flags, message):
    with pytest.raises(UserError) as raised:
        located(*flags)
    assert message in str(raised.value)


def test_a_lone_process_joins_nothing():
    assert located(None, None, None) is None
    assert located(None, 1, None) is None
    assert located("localhost:8476", 1, 0) is None


def test_slurm_and_open_mpi_are_found(monkeypatch):
    variables = {"JOB_ID": "4096", "STEP_NODELIST": "node[007-009]", "NTASKS": "3", "PROCID": "2", "LOCALID": "0"}
    with monkeypatch.context() as slurm:
        for name, value in variables.items():
            slurm.setenv(f"SLURM_{name}", value)
        assert located(None, None, None) == Cluster("node007:61440", 3, 2)
        assert located("other:1234", None, None) == Cluster("other:1234", 3, 2)
        assert located(None, 1, None) is None
        slurm.setenv("SLURM_NTASKS", "1")
        slurm.setenv("SLURM_PROCID", "0")
        assert located(None, None, None) is None
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "4096.0;tcp://10.0.0.1,10.0.0.2:34911")
    for name, value in {"SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert located(None, None, None) == Cluster("10.0.0.1:61441", 2, 1)


def test_an_environment_that_cannot_be_read_is_said(monkeypatch, capsys):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "of no known form")
    assert located(None, None, None) is None
    assert "taken to be alone; if it is not, give --coordinator_address" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot tell whether this is one of several"):
        located(None, 2, 1)


def devices_of(counts):
    """Returns stand-ins for the devices of processes, with so many each."""
    owners = [index for index, count in enumerate(counts) for _ in range(count)]
    return [types.SimpleNamespace(process_index=owner, id=number) for number, owner in enumerate(owners)]


@pytest.mark.parametrize(
    ("sizes", "counts", "index", "expected"),
    [
        ((8, 1, 1), (4, 4), 1, range(4, 8)),
        ((1, 4, 2), (4, 4), 1, range(4, 8)),
        ((2, 2, 2), (4, 4), 0, range(4)),
        ((1, 1, 8), (4, 4), 1, range(8)),
        ((2, 1, 4), (2, 2, 2, 2), 1, range(4)),
        ((2, 1, 4), (2, 2, 2, 2), 2, range(4, 8)),
    ],
)
def test_each_process_loads_the_rows_of_its_devices(sizes, counts, index, expected, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: index)
    shape = types.SimpleNamespace(
        devices=np.array(devices_of(counts)).reshape(sizes), shape=dict(zip(sharding.AXES, sizes, strict=True))
    )
    assert list(range(8))[sharding.host_rows(shape).of(8)] == list(expected)


def test_rows_that_no_process_could_load_alone_are_refused(monkeypatch):
    devices = np.array(devices_of((2, 2, 2))).reshape(2, 1, 3)
    with pytest.raises(UserError, match="unevenly over 3 processes"):
        sharding.host_rows(types.SimpleNamespace(devices=devices, shape={"data": 2, "fsdp": 1, "tensor": 3}))


def test_devices_of_one_process_stand_side_by_side():
    devices = jax.devices()
    assert sharding.make_mesh({"data": 8, "fsdp": 1, "tensor": 1}, devices[::-1]) == Mesh(
        np.array(devices).reshape(8, 1, 1), sharding.AXES
    )


def test_an_unreachable_coordinator_is_one_line(capsys):
    address = f"localhost:{free_port()}"
    place = [f"--coordinator_address={address}", "--process_count=2", "--process_index=1", "--join_timeout=0.5"]
    assert main([f"--config={ROOT}/configs/digits.py", *place]) == 1
    joining, line = capsys.readouterr().err.splitlines()
    assert joining == f"process 1 of 2: joining at {address}"
    assert f"process 0 is not reached at --coordinator_address {address} within 0 s" in line


def test_a_taken_port_is_one_line():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        cluster = Cluster(f"localhost:{listener.getsockname()[1]}", 2, 0)
        with pytest.raises(UserError, match="something listens at the port"):
            distributed.join(cluster, 1.0)


def test_preview_draws_in_one_process(capsys):
    assert main([f"--config={ROOT}/configs/digits.py", "--mode=preview", "--process_count=2"]) == 1
    assert "--mode=preview draws in one process" in capsys.readouterr().err


def logs(folder, name="run"):
    """Returns what the two processes wrote."""
    return [(folder / f"{name}.{index}.log").read_text() for index in (0, 1)]


def test_two_processes_equal_one_and_are_continued_by_one(command, tmp_path):
    """Four devices each: the loss of every step, the evaluation, and going on with another mesh in one process."""
    steps = ("--config.train.duration=8 steps", "--config.checkpoint.every=4 steps")
    both, alone = tmp_path / "both", tmp_path / "alone"
    pair = command.also(f"--workdir={both}", *steps, *mesh(WHOLE)).pair(tmp_path / "run")
    assert statuses(pair, 300) == [0, 0], logs(tmp_path)
    said = logs(tmp_path)
    assert "2 processes with 8 devices" in said[0]
    assert "trained to step 8" in said[0]
    assert [line for line in said[1].splitlines() if "[Gloo]" not in line and "joining" not in line] == []
    assert main([*paths(SMALL), f"--workdir={alone}", *steps, *mesh(WHOLE)]) == 0
    assert [record["step"] for record in read_metrics(str(both))] == [*range(1, 9), 8]
    assert difference(both, alone, "train/loss") < 1e-5
    assert difference(both, alone, "eval/loss") < 1e-6
    assert difference(both, alone, "eval/top1") == 0
    continued = tmp_path / "continued"
    shutil.copytree(both, continued)
    shutil.rmtree(continued / "checkpoints" / "8")
    assert main([*paths(SMALL), f"--workdir={continued}", *steps, *mesh(SPLIT)]) == 0
    assert difference(continued, alone, "train/loss") < 1e-5
    assert difference(continued, alone, "eval/top1") == 0
    assert main([*paths(SMALL), f"--workdir={both}", "--mode=eval", *mesh(SPLIT)]) == 0
    report = json.loads((both / "evaluation.json").read_text())
    assert report["examples"] == 360
    assert report["top1"] == values(alone, "eval/top1")[8]
    assert abs(report["loss"] - values(alone, "eval/loss")[8]) < 1e-6


def paths(arguments):
    """Returns arguments whose config file is found from anywhere."""
    return [word.replace("configs/", f"{ROOT}/configs/") for word in arguments]


def test_a_signal_to_one_process_saves_the_same_step_on_both(command, tmp_path):
    workdir = tmp_path / "run"
    steps = ("--config.train.duration=100000 steps", "--config.checkpoint.every=200%")
    pair = command.also(f"--workdir={workdir}", *steps, *mesh(SPLIT)).pair(tmp_path / "run")
    await_step(workdir, 3, pair, 300)
    pair[1].send_signal(signal.SIGTERM)
    assert statuses(pair, 120) == [143, 143], logs(tmp_path)
    saved = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert f"SIGTERM received: saved step {saved[0]}" in logs(tmp_path)[0]


def test_processes_that_were_asked_for_different_runs_part_at_once(command, tmp_path):
    pair = command.also(f"--workdir={tmp_path}/run").pair(tmp_path / "run", "--config.seed=7")
    assert statuses(pair, 120) == [1, 1]
    said = logs(tmp_path)
    assert "process 1 was asked for something else than process 0: seed is 7 here, 0 there" in said[1]
    assert "process 1 of 2 stopped: process 1 was asked for something else" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_processes_are_missed_and_started_again(command, tmp_path):
    steps = ("--config.train.duration=600 steps", "--config.checkpoint.every=20 steps")
    small = Measurement(command.also(*steps), tmp_path, 600)
    small.killed()
    assert small.wrong == []


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_ends_both(command, tmp_path):
    for split, count in (("train", 600), ("test", 40)):  # so many that no other process reads that row soon
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    (tmp_path / "train" / "a" / "7.png").write_bytes(b"no image")
    keys = (f"--config.data.name=folder:{tmp_path}", "--config.data.image_size=8", "--config.data.max_bad=0")
    pair = command.also(f"--workdir={tmp_path}/run", "--config.augment.crop=none", *keys).pair(tmp_path / "run")
    assert statuses(pair, 300) == [1, 1]
    said = logs(tmp_path)
    hit = next(index for index in (0, 1) if "vit_jax: 1 images cannot be read" in said[index])
    assert f"process {hit} of 2 stopped: 1 images cannot be read" in said[1 - hit]
