"""Runs every command of README.md in a fresh clone and a fresh environment, and prints the exit status of each.

    python -m tests.documents.commands [--data_dir=DIR] [--network] [--accelerator] [--tests] [--only=WORD]

Commands that need what is not there are listed, not run: a prepared CIFAR-10 (`--data_dir`), a network, an accelerator;
so is the test command without `--tests`. Words in capitals stand for files that are made here. The exit status is 1
where any command failed.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from tests.documents.readme import NEEDS, ROOT, TEST_COMMAND, WITH, Block, blocks, commands

LONGEST = 1800
"""Seconds after which a command is given up, with status 124."""


def sample_folder(root: pathlib.Path) -> pathlib.Path:
    """Makes a folder of images, 24 in each of two classes, and returns it."""
    generator = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (root / name).mkdir(parents=True)
        for i in range(24):
            pixels = generator.integers(low, low + 128, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def fresh_clone(folder: pathlib.Path) -> pathlib.Path:
    """Clones this checkout, what is committed, and returns where."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def lacking(block: Block, flags: argparse.Namespace) -> str | None:
    """Returns what a block needs and is not there, or None."""
    if TEST_COMMAND in block.parts and not flags.tests:
        return "--tests"
    there = {"network": flags.network, "accelerator": flags.accelerator, "data": flags.data_dir}
    needs = block.said(NEEDS).split(" and ") if block.said(NEEDS) else []
    unknown = set(needs) - set(there)
    if unknown:
        raise SystemExit(f"README.md, line {block.line}: what is {sorted(unknown)}?")
    return ", ".join(need for need in needs if not there[need]) or None


def filled(command: str, block: Block, words: dict[str, str]) -> str:
    """Returns a command with the words in capitals replaced, and what its block is tried with added."""
    for word, value in words.items():
        command = command.replace(word, value)
    ending = f" {block.said(WITH)}" if block.said(WITH) else ""
    return "\n".join(line + ending if "vit_jax.main" in line else line for line in command.splitlines())


def main() -> int:
    """Runs the commands and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="where a prepared CIFAR-10 is")
    parser.add_argument("--network", action="store_true", help="also what downloads")
    parser.add_argument("--accelerator", action="store_true", help="also what needs one")
    parser.add_argument("--tests", action="store_true", help="also the test command")
    parser.add_argument("--only", default="", help="only commands that hold this, after the first")
    flags = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="vit_jax_readme_") as folder:
        clone = fresh_clone(pathlib.Path(folder) / "clone")
        words = {"IMAGES": str(sample_folder(pathlib.Path(folder) / "images")), "DATA": flags.data_dir or ""}
        environment = {**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        shell = [block for block in blocks((clone / "README.md").read_text()) if block.language == "sh"]
        for number, block in enumerate(shell):
            for command in commands(block):
                if number and flags.only not in command:
                    continue
                need = lacking(block, flags)
                if need:
                    print(f"not run, needs {need}: {command}", flush=True)
                    continue
                begun = time.perf_counter()
                whole = ["timeout", str(LONGEST), "bash", "-c", filled(command, block, words)]
                done = subprocess.run(whole, cwd=clone, env=environment, capture_output=True, text=True)
                print(f"{done.returncode}  {time.perf_counter() - begun:6.1f} s  {command}", flush=True)
                if done.returncode:
                    failed += 1
                    print(f"{done.stdout[-1000:]}{done.stderr[-2000:]}", flush=True)
    print(f"{failed} failed" if failed else "all succeeded")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
