"""The notebooks run as written, offline and from any folder, and are committed with their outputs."""

import re

import nbformat
import pytest
from conftest import TESTS
from nbclient import NotebookClient

PROJECT = TESTS.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell) -> set[str]:
    """Return the kinds of output a cell has: "stdout", "text/plain", "image/png", "error", …"""
    found = set()
    for output in cell.outputs:
        found |= {output.name} if output.output_type == "stream" else set(output.get("data", [output.output_type]))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_keeps_its_outputs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # a warning of the oldest LlamaIndex with a newer pydantic
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:The 'validate_default' attribute")
    committed = nbformat.read(path, as_version=4)
    assert re.search(r'^MODEL = "(pocket|tiny)"  # .*"(BAAI|namespace-Pt)/', code_cells(committed)[0].source, re.M)
    fresh = nbformat.read(path, as_version=4)
    for cell in code_cells(fresh):
        cell.outputs = []
    NotebookClient(fresh, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()  # raises a cell's error
    for run, kept in zip(code_cells(fresh), code_cells(committed), strict=True):
        assert kinds(run) == kinds(kept), run.source
        assert not kinds(run) & {"stderr", "error"}, run.outputs
    assert not list(tmp_path.iterdir()), "a notebook writes to temporary folders only"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_does_not_reveal_the_machine(path):
    notebook = nbformat.read(path, as_version=4)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    shown = [str(output) for cell in code_cells(notebook) for output in cell.outputs if "image/png" not in kinds(cell)]
    assert not re.findall(r"/(?:tmp|home|root|Users|private)/\S*", "\n".join(shown))


def test_the_page_names_every_notebook():
    page = (PROJECT / "docs" / "notebooks.md").read_text("utf-8")
    assert re.findall(r"`notebooks/(\S+\.ipynb)`", page) == [path.name for path in NOTEBOOKS]
