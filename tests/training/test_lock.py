"""One run at a time in a workdir."""

import os
import signal
import subprocess
import sys

import pytest

from vit_jax.errors import UserError
from vit_jax.training.lock import locked
from vit_jax.training.run import train

HOLD = """
import sys, time
from vit_jax.training.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_second_run_is_refused_with_the_process_and_host_of_the_first(config, tmp_path):
    with (
        locked(str(tmp_path)),
        pytest.raises(UserError, match=rf"in use by another run \(process {os.getpid()} on \S+\); wait for it, stop"),
    ):
        train(config, workdir=str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_it_is_free_after_the_end_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), locked(str(tmp_path)):
            raise KeyError
    with locked(str(tmp_path)):
        pass


def test_a_kill_leaves_no_lock(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"), locked(str(tmp_path)):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with locked(str(tmp_path)):
        pass
