"""The notebooks of the documentation run from top to bottom, and what they assert of themselves holds."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
SAYS = {
    "image_captioning": "forward and backward agree with unrolled.LSTM",
    "why": "two gradients into every h_t, as in the layer",
}
"""Of each notebook, something that it prints once it has shown it."""


def cells(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def code(name: str) -> list[dict]:
    return [cell for cell in cells(name) if cell["cell_type"] == "code"]


def test_every_notebook_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_the_notebook_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As plain Python in one namespace: a kernel would need Jupyter, and take longer."""
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    matplotlib.use("Agg")
    namespace: dict = {"__name__": "__main__"}
    try:
        for place, cell in enumerate(code(name)):
            exec(compile("".join(cell["source"]), f"cell {place}", "exec"), namespace)
    finally:
        pyplot.close("all")
    assert SAYS[name] in capsys.readouterr().out


@pytest.mark.parametrize("name", SAYS)
def test_the_notebook_is_shipped_with_what_it_shows(name: str) -> None:
    several = code(name)
    assert [cell["execution_count"] for cell in several] == list(range(1, len(several) + 1)), (
        "run it from top to bottom and save it"
    )
    assert not [output for cell in several for output in cell["outputs"] if output["output_type"] == "error"]
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000
    for cell in several:
        ast.parse("".join(cell["source"]))
