"""Sequences of numbers from arrays and tables."""

from pathlib import Path

import numpy as np
import pytest

from unrolled.data import tables
from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError

CSV = "sequence,time,x,y,label\nA,0.0,1,2,up\nA,0.5,3,4,down\nB,0.0,5,6,up\n"


def read(path: Path, **how) -> list[Sequence]:
    return list(tables.read(Source(str(path)), **how))


def written(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_a_table_has_sequences_a_clock_labels_and_numbers(tmp_path: Path) -> None:
    first, second = read(written(tmp_path, CSV))
    assert first.inputs.tolist() == [[1, 2], [3, 4]]
    assert (first.labels, second.labels) == (["up", "down"], ["up"])
    assert first.times is not None
    assert first.times.tolist() == [0, 0.5]
    assert first.name.endswith("table.csv, sequence A")


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    csv = pytest.importorskip("pyarrow.csv")
    import pyarrow.parquet as parquet

    path = written(tmp_path, CSV)
    parquet.write_table(csv.read_csv(path), tmp_path / "table.parquet")
    for one, other in zip(read(path), read(tmp_path / "table.parquet"), strict=True):
        assert one.inputs.tolist() == other.inputs.tolist()
        assert one.labels == other.labels


def test_a_table_without_names_has_columns_by_number(tmp_path: Path) -> None:
    (one,) = read(written(tmp_path, "1,2,0\n3,4,1\n"), label="3")
    assert (one.inputs.tolist(), one.labels) == ([[1, 2], [3, 4]], ["0", "1"])


def test_arrays_are_read_with_their_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez(tmp_path / "steps.npz", celsius=np.zeros((2, 3, 4), np.float16), label=np.array(["a", "b"]))
    np.savez(tmp_path / "chords.npz", inputs=np.zeros((2, 1)), labels=np.array([[1, 0, 1], [0, 0, 0]], bool))
    assert read(tmp_path / "one.npy")[0].inputs.shape == (3, 1)
    assert (read(tmp_path / "steps.npz")[0].inputs.shape, read(tmp_path / "steps.npz")[0].labels) == ((2, 3, 4, 1), ["a", "b"])
    assert read(tmp_path / "chords.npz", multi=True)[0].labels == [{"0", "2"}, frozenset()]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x,y,label\n1,2,a\n3,nan,b\n", "row 3, column y: expected a finite number, got nan"),
        ("x,y,label\n1,2,a\n3,,b\n", "row 3, column y: expected a number, got nothing"),
        ("x,y,label\n1,inf,a\n", "row 2, column y: expected a finite number, got inf"),
        ("x,y\n1,2\n3\n", "row 3: expected 2 columns, got 1"),
        ("x,x\n1,2\n", "expected columns of different names, got x, x"),
        ("sequence,x\nA,1\nB,2\nA,3\n", "row 4: sequence A goes on after another"),
        ("label\na\n", "expected columns of numbers, got label"),
    ],
)
def test_what_is_no_table_of_numbers_is_named_by_row_and_column(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=f"table.csv, {problem}" if problem.startswith("row") else problem):
        read(written(tmp_path, text))


def test_arrays_that_are_not_finite_or_not_of_one_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.array([[1, 2], [3, np.nan]]))
    np.savez(tmp_path / "short.npz", inputs=np.zeros((3, 1)), label=np.array(["a"]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, problem in (
        ("nan.npy", "row 2, column 2: expected a finite number, got nan"),
        ("short.npz", "expected a label for each of 3 steps, got 1"),
        ("objects.npy", "cannot be read as a NumPy file of numbers"),
    ):
        with pytest.raises(DataError, match=problem):
            read(tmp_path / name)


def test_a_column_of_labels_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a column of labels called 'labl', got sequence, time, x, y, label"):
        read(written(tmp_path, CSV), label="labl")
