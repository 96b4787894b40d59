"""Every notebook runs from top to bottom in small size; it is committed without outputs, and equal to its script."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_draws_and_was_committed_without_outputs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs before you commit"
    assert "## What to try next" in notebook.cells[-1].source
    monkeypatch.setenv("RNN_JAX_SMALL", "1")
    monkeypatch.delenv("RNN_JAX_DATA", raising=False)  # embedded and packaged data are enough
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows at least one picture"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_script_beside_it_has_the_same_cells(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    pairs = (jupytext.read(path), jupytext.read(path.with_suffix(".py")))
    ours, theirs = ([(cell.cell_type, cell.source.strip()) for cell in notebook.cells] for notebook in pairs)
    assert ours == theirs, f"run: jupytext --sync notebooks/{path.name}"


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
