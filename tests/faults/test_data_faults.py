"""Data that are lost in the middle of a run end it in one line, with what was saved intact."""

import io
import multiprocessing
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.examples import train_batches
from tests.training.conftest import small_config
from vit_jax.data.loading import iterate
from vit_jax.errors import UserError
from vit_jax.training.checkpoint import Checkpoints
from vit_jax.training.loop import Loop
from vit_jax.training.run import train


def test_a_process_that_loads_and_is_killed():
    before = set(multiprocessing.active_children())
    batches = iterate(train_batches(), 0, 10_000, workers=2)
    next(batches)
    lost, kept = set(multiprocessing.active_children()) - before
    os.kill(lost.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"a process that loads data was killed by SIGKILL.*data\.workers=2"):
        for _ in batches:
            pass
    kept.join(60)
    assert not kept.is_alive()


def test_processes_that_load_do_not_outlive_the_run(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(_script(tmp_path))], stdout=subprocess.PIPE, text=True, env=environment
    )
    with process, process.stdout as said:
        worker = int(said.readline())
        process.kill()
    for _ in range(600):
        if not _runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("a process that loads data was still there after the run was killed")


def _script(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "loads.py"
    path.write_text(
        """
import multiprocessing, time
from tests.data.examples import train_batches
from vit_jax.data.loading import iterate

if __name__ == "__main__":
    batches = iterate(train_batches(), 0, 10_000, workers=1)
    next(batches)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(1000)
"""
    )
    return path


def _runs(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_images_that_are_gone_in_the_middle_of_a_run(tmp_path, monkeypatch):
    for row in range(40):
        place = tmp_path / "images" / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(row).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file, "PNG")
        (place / f"{row}.png").write_bytes(file.getvalue())
    config = small_config()
    config.data.name, config.data.in_memory, config.data.max_bad = f"folder:{tmp_path / 'images'}", False, 10
    config.data.train_split = config.data.eval_split = "train"
    config.data.image_size, config.mesh.data = 8, 1
    config.mesh.fsdp = 8
    save = Loop.save

    def saving(self, state, step):
        save(self, state, step)
        shutil.rmtree(tmp_path / "images")

    monkeypatch.setattr(Loop, "save", saving)
    with pytest.raises(UserError, match=r"11 images cannot be read, .*No such file.* data\.max_bad = 10 allows"):
        train(config, workdir=str(tmp_path / "run"))
    assert Checkpoints(str(tmp_path / "run")).latest() == 4
