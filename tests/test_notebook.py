"""docs/notebook.ipynb runs, on a toy model and, slowly, on the real one."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def execute(place: Path, model: str) -> dict[str, Any]:
    """Run the notebook with a model in ``place``; return the outputs of its cells by source."""
    nbformat = pytest.importorskip(
        "nbformat", reason="needs pip install nbformat nbclient ipykernel"
    )
    nbclient = pytest.importorskip("nbclient", reason="needs pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs pip install ipykernel")
    content = NOTEBOOK.read_text("utf-8").replace("model=smollm2_135m", f"model={model}")
    notebook = nbformat.reads(content, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3")
    client.execute(cwd=str(place))
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def shown(outputs: Any) -> str:
    """Return what a cell shows, as plain text."""
    return json.dumps(outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = execute(tmp_path, "tiny")
    (training,) = (out for source, out in cells.items() if source.startswith("common ="))
    printed = "".join(output.text for output in training if output.get("name") == "stdout")
    assert printed.count("read as prompt/completion") == 1  # every line once, as plain text
    assert "\x1b" not in printed and not [o for o in training if "data" in o]
    (swept,) = (out for source, out in cells.items() if source.startswith("swept ="))
    assert "pack 1 of 1" in shown(swept) and "\\u001b" not in shown(swept)
    (table,) = (out for source, out in cells.items() if source.startswith("run.metrics"))
    assert "eval/field_f1" in shown(table)
    (summary,) = (out for source, out in cells.items() if source == "run")
    assert "text/html" in shown(summary) and "finished" in shown(summary)
    (compared,) = (out for source, out in cells.items() if source.startswith("compared ="))
    assert "best: " in shown(compared)
    assert len(list(tmp_path.glob("outputs/*/*/report.html"))) >= 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_teaches_the_real_model(tmp_path: Path) -> None:
    cells = execute(tmp_path, "smollm2_135m")
    (generated,) = (out for source, out in cells.items() if source.startswith("model, tok"))
    assert '\\"urgent\\": true' in shown(generated)


def test_the_notebook_is_stored_with_its_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum(bool(cell["outputs"]) for cell in codes) > len(codes) / 2
    text = NOTEBOOK.read_text("utf-8")
    assert "Traceback" not in text and len(text) < 200_000
