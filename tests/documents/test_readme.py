"""README.md: its links lead somewhere, its commands have flags that exist, its Python is Python."""

import ast
import importlib
import importlib.util
import re
import shlex

import pytest

from tests.documents.readme import NEEDS, ROOT, TEST_COMMAND, WITH, blocks, commands, named_files
from vit_jax.errors import UserError

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [command for block in blocks(TEXT) if block.language == "sh" for command in commands(block)]
CALL = re.compile(r"""python -m (vit_jax\.\w+)((?:'[^']*'|"[^"]*"|[^;|>\n&#'"])*)""")
CALLS = [call.groups() for command in COMMANDS for call in CALL.finditer(command.replace("\\\n", " "))]
MODULES = re.compile(r"python -m ((?:vit_jax|tests)[\w.]*)")


def test_files_that_it_names_exist():
    names = named_files(TEXT)
    assert len(names) > 5
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_config_files_that_it_names_exist():
    quoted = re.findall(r"`(?:configs/)?(\w+\.py)(?::[\w:]*)?`", TEXT)
    known = {path.name for path in (*ROOT.glob("configs/*.py"), *ROOT.glob("vit_jax/*.py"))}
    assert set(quoted) - known == set()


def test_modules_that_it_runs_exist():
    found = set(MODULES.findall(TEXT))
    assert "vit_jax.main" in found
    assert [name for name in sorted(found) if importlib.util.find_spec(name) is None] == []


def test_marks_are_known():
    for block in blocks(TEXT):
        assert all(part == TEST_COMMAND or part.startswith((NEEDS, WITH)) for part in block.parts), block.line


@pytest.mark.parametrize(("module", "words"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_flags_are_known(module, words):
    try:
        importlib.import_module(module).parse(shlex.split(words))
    except UserError as error:
        pytest.fail(str(error))


PYTHON = [block for block in blocks(TEXT) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"line {block.line}")
def test_python_parses_and_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vit_jax"):
            module = importlib.import_module(node.module)
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
