"""The example notebook runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "notebook.ipynb"


@pytest.mark.filterwarnings("ignore")
def test_the_notebook(project: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("train.steps=1500", "train.steps=100")
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(project)}})
    client.execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert "judge_frechet_distance" in str(notebook.cells[-1].outputs)
