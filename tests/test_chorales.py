"""The example that makes labelled tables of chorales."""

import importlib.util
from pathlib import Path

from unrolled.data import tables
from unrolled.data.sources import Source

EXAMPLE = Path(__file__).parents[1] / "examples" / "chorales.py"


def test_a_row_has_the_notes_of_its_step_and_as_labels_those_of_the_next(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("chorales", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    chorales = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chorales)
    chorales.write([[[60, 64], [], [62]], [[21, 108], [60]]], tmp_path / "part.csv")
    first, second = tables.read(Source(str(tmp_path / "part.csv")), multi=True)
    assert [[21 + key for key in row.nonzero()[0]] for row in first.inputs] == [[60, 64], []]
    assert first.labels == [frozenset(), {"62"}]
    assert (second.inputs.shape, second.labels) == ((1, 88), [{"60"}])
