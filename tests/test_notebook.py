"""The notebook of the documentation runs from top to bottom, and what it asserts of itself holds."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "image_captioning.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As plain Python in one namespace: a kernel would need Jupyter, and take longer."""
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    matplotlib.use("Agg")
    namespace: dict = {"__name__": "__main__"}
    try:
        for place, source in enumerate(CODE):
            exec(compile(source, f"cell {place}", "exec"), namespace)
    finally:
        pyplot.close("all")
    assert "forward and backward agree with unrolled.LSTM" in capsys.readouterr().out


def test_the_notebook_is_shipped_with_what_it_shows() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it from top to bottom and save it"
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert NOTEBOOK.stat().st_size < 500_000
    for source in CODE:
        ast.parse(source)
