"""Execute the notebooks of docs/notebooks."""

import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def outputs(notebook: Any, kind: str) -> str:
    """Return the outputs of all cells in one format, such as text/html."""
    return "\n".join(
        str(output["data"][kind])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    )


def test_notebooks_are_stored_without_outputs() -> None:
    assert NOTEBOOKS
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        assert not any(cell.get("outputs") for cell in notebook.cells), file.name


@pytest.mark.slow
def test_quickstart_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows a frame while it trains, and results as HTML."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert not [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "error"
    ]
    html, text = outputs(notebook, "text/html"), outputs(notebook, "text/plain")
    assert "<pre>kd-" in html, "the frame of the running training"
    assert "complete after 8 epochs" in html and "<table" in html
    assert "Data(arrays-" in text and (tmp_path / "exported").is_dir()
