"""What README.md says: its blocks of code, their commands, and the files that it names."""

import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]

TEST_COMMAND = "test command"
"""The mark of the block that `.ci/run` runs."""

NEEDS = "needs "
"""How a part of a mark begins where commands do not run everywhere; what they need follows, with " and " between."""

WITH = "tried with "
"""How a part of a mark begins where commands are tried with further words, which follow, to end sooner."""


class Block(NamedTuple):
    """A fenced block of code.

    Attributes:
      language: as the fence says it, such as `sh` or `python`.
      mark: the text of a comment on the line before the fence, "" where there is none; "; " stands between its parts.
      code: the text inside.
      line: of README.md on which it begins.
    """

    language: str
    mark: str
    code: str
    line: int

    @property
    def parts(self) -> list[str]:
        """What the mark says, one by one."""
        return self.mark.split("; ") if self.mark else []

    def said(self, beginning: str) -> str:
        """Returns what follows in the part of the mark that begins so, "" where none does."""
        return next((part.removeprefix(beginning) for part in self.parts if part.startswith(beginning)), "")


FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(text: str) -> list[Block]:
    """Returns the fenced blocks of a Markdown text."""
    return [
        Block(found["language"], found["mark"] or "", found["code"], text.count("\n", 0, found.start("code")) + 1)
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[str]:
    """Yields the commands of a block of shell code, one by one; loops and continued lines are one command."""
    held: list[str] = []
    for line in block.code.splitlines():
        held.append(line)
        command = "\n".join(held)
        whole = not line.endswith("\\") and subprocess.run(["bash", "-n", "-c", command], capture_output=True)
        if whole and whole.returncode == 0:
            if command.strip():
                yield command.strip()
            held = []
    if held:
        raise ValueError(f"README.md, line {block.line}: this is no whole command: {held}")


def named_files(text: str) -> set[str]:
    """Returns the relative links of a Markdown text, and what stands in backticks and looks like a file of ours."""
    links = {link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link}
    quoted = re.findall(r"`((?:vit_jax|configs|tests|colab)/[\w./]*)`", text)
    return links | set(quoted)
