"""The notebook of the docs runs from nothing, in a folder of its own, on a CPU; here with a tenth of its training images."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.test_docs import DOCS, machine_paths
from tests.patience import PATIENCE

NOTEBOOK = DOCS / "tutorials/embedding.ipynb"


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a machine without a GPU: the outputs that are stored are of one.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The outputs that are stored were made with all of them.
    of_all, of_some = '("train", 1000)', '("train", 100)'
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source.count(of_all) == 1
    first.source = first.source.replace(of_all, of_some)
    client = NotebookClient(
        notebook, timeout=int(PATIENCE), kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert all(cell.execution_count and cell.outputs for cell in notebook.cells if cell.cell_type == "code")


def test_it_is_stored_with_small_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    assert NOTEBOOK.stat().st_size < 300_000
    text = "".join(str(output) for cell in code for output in cell.outputs)
    assert machine_paths(text) == []
