"""The command line: one line and status 1 for each mistake, and the modes that do not train."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.main import main

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = f"--config={ROOT}/configs/digits.py"
SMALL = ["--config.model.width=16", "--config.model.depth=1", "--config.model.patch_size=4"]


def fails(capsys, *arguments) -> str:
    """Runs the command, checks that it ends in one line and status 1, and returns the line."""
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/digit.py"], "no config file 'configs/digit.py' (did you mean 'configs/digits.py'?)"),
        ([DIGITS, "--config.optimizer.lrr=1"], "unknown config key 'optimizer.lrr' (did you mean 'optimizer.lr'?)"),
        ([DIGITS, "--config.model.widht=1"], "has no field 'widht' (did you mean 'width'?)"),
        ([DIGITS, "--config.train.batch_size=many"], "'train.batch_size' must be int, not 'many'"),
        ([DIGITS, "--config.train.duration=3"], "train.duration: '3' is no duration"),
        ([DIGITS, "--config.data.name=cifar_10"], "no data set 'cifar_10' (did you mean 'cifar10'?)"),
        (
            [DIGITS, "--config.data.name=imagenet2012", "--config.data.dir={tmp}"],
            "python -m vit_jax.prepare imagenet2012 --data_dir=",
        ),
        ([DIGITS, "--config.data.train_split=validation"], "no split 'validation'; there are test, train"),
        ([DIGITS, "--config.model.patch_size=3"], "image height 8 is not a multiple of patch height 3"),
        ([DIGITS, "--config.train.batch_size=12"], "train.batch_size 12 is not a multiple of 8"),
        ([DIGITS, "--workdir=/proc/none"], "cannot write to workdir '/proc/none'"),
        ([DIGITS, "--mode=eval", "--workdir={tmp}"], "holds no checkpoint to evaluate"),
        ([DIGITS, "--config.init_from={tmp}"], "holds no checkpoint: no .safetensors file"),
        ([DIGITS, "--worddir=x"], "unrecognized arguments: --worddir=x"),
        ([DIGITS, "--mode=evaluate"], "argument --mode: invalid choice: 'evaluate'"),
        (["--config=README.md"], "config file 'README.md' is no Python file"),
        ([DIGITS, "--config.optimizer.lr"], "--config.optimizer.lr lacks its value"),
    ],
)
def test_each_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = fails(capsys, f"--workdir={tmp_path}/run", *(word.format(tmp=tmp_path) for word in arguments))
    assert message in line


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="unknown config key"):
        main([DIGITS, "--config.sede=1", "--debug"])


def test_preview_draws_the_batch(capsys, tmp_path):
    assert main([DIGITS, "--mode=preview", f"--workdir={tmp_path}", "--config.augment.mixup=0.5", *SMALL]) == 0
    presets = np.asarray(Image.open(tmp_path / "presets.png").convert("RGB"))
    assert len(np.unique(presets.reshape(-1, 3), axis=0)) > 100
    picture = np.asarray(Image.open(tmp_path / "preview.png"))
    assert picture.shape[1] > 1000
    assert picture.std() > 10
    assert "1,437 training images" in capsys.readouterr().out


def test_summary_prints_keys_parameters_and_cost(capsys):
    assert main([DIGITS, "--mode=summary", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "optimizer.name = 'muon'" in out
    assert "model.width = 16" in out
    assert "GFLOP" in out
    assert "MB state and batch" in out


def test_the_module_runs_as_a_command_and_keeps_its_status():
    """The command may start itself again, with huge pages; status and message must survive that."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-m", "vit_jax.main", "--config=configs/digits.py", "--config.seeed=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "vit_jax: unknown config key 'seeed' (did you mean 'seed'?)\n"
