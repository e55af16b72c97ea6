"""The notebooks of colab/ run from top to bottom, and what is committed of them is small and comes from a whole run."""

import ast
import json
import re

import pytest

from tests.documents.readme import ROOT, named_files

NOTEBOOKS = sorted(ROOT.glob("colab/*.ipynb"))
MOST_BYTES = 1_500_000
"""Of one notebook with its pictures."""

PLACES = re.compile(r"/(?:home|root|tmp|work|Users)/")
"""Of the machine that a notebook was run on: no business of its readers."""


def read(path) -> dict:
    return json.loads(path.read_text())


def source(cell: dict) -> str:
    return "".join(cell["source"])


def parameters(notebook: dict) -> dict:
    """Returns the cell that holds the parameters."""
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    return cell


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["fine_tune", "inference_and_export", "train_from_scratch"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path):
    notebook = read(path)
    assert path.stat().st_size < MOST_BYTES
    assert "QUICK = False" in source(parameters(notebook))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert PLACES.findall(json.dumps([output.get("text", "") for output in outputs])) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_parses_and_named_files_exist(path):
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code":
            ast.parse(source(cell))
        else:
            assert [name for name in named_files(source(cell)) if not (ROOT / name).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_quick_mode(path, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs the extra 'test'")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra 'test'")
    notebook = nbformat.read(path, as_version=4)
    cell = parameters(notebook)
    cell.source, workdirs = re.subn(
        r'^(WORKDIR|FOLDER) = ".*?"', rf'\1 = "{tmp_path}/run"', cell.source, flags=re.MULTILINE
    )
    cell.source, quick = re.subn(r"^QUICK = False", "QUICK = True", cell.source, flags=re.MULTILINE)
    assert (workdirs, quick) == (1, 1)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT / "colab")}})
    client.execute()
    streams = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    assert "QUICK" in "".join(streams) or path.stem == "train_from_scratch"  # it says that the weights are its own
    assert (tmp_path / "run").is_dir()
