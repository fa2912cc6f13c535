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
        ("x,y,label\n1,2,a\n3,,b\n", "row 3, column y: expected a number, got nothing. Fill the gap"),
        ("x,y,label\n1,1e39,a\n", r"row 2, column y: expected at most 3.4e\+38 in size, got 1e\+39. Scale the column"),
        ("x,y\n1,2_0\n", "row 2, column y: expected a number, got '2_0'"),
        ("x,time\n1,12:30\n", "row 2, column time: expected a number, got '12:30'. It is a clock, in seconds"),
        ("x,time\n1,0\n2,nan\n", "row 3, column time: expected a finite number, got nan"),
        ('x,label\n"1,5",a\n', "row 2, column x: expected a number, got '1,5'"),
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


@pytest.mark.parametrize(
    "text",
    [
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", ", "),
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\r"),
        CSV.replace(",", ";").replace("0.5", "0,5"),
        "\ufeff" + CSV,
        "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in CSV.splitlines()),
        CSV.replace("up", "up "),
    ],
)
def test_a_table_is_the_same_in_every_dialect(tmp_path: Path, text: str) -> None:
    (tmp_path / "dialect.csv").write_bytes(text.encode())
    for one, other in zip(read(written(tmp_path, CSV)), read(tmp_path / "dialect.csv"), strict=True):
        assert (one.inputs.tolist(), one.labels) == (other.inputs.tolist(), other.labels)
        assert one.times is not None
        assert other.times is not None
        assert one.times.tolist() == other.times.tolist()


def test_only_line_ends_end_a_row_and_a_row_may_be_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.data.sources.BLOCK", 2)
    path = tmp_path / "long.csv"
    path.write_bytes("\ufeffx,y,label\r\n1,2147483648,a\u2028b\r\n3,4,c\x85\r\n".encode())
    (one,) = read(path)
    assert (one.inputs.tolist(), one.labels) == ([[1, 2147483648], [3, 4]], ["a\u2028b", "c"])


def test_labels_of_parquet_and_arrays_are_what_they_are_in_csv(tmp_path: Path) -> None:
    """Zero and false are names of labels like others; what is missing is none."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for labels, expected in (
        ([0, 1], ["0", "1"]),
        ([False, True], ["False", "True"]),
        ([0.0, float("nan")], ["0.0", ""]),
        (["a", None], ["a", ""]),
        ([b"a", b"b"], ["a", "b"]),
    ):
        parquet.write_table(arrow.table({"x": [1.0, 2.0], "label": labels}), tmp_path / "table.parquet")
        assert read(tmp_path / "table.parquet")[0].labels == expected
        if None not in labels:
            np.savez(tmp_path / "arrays.npz", inputs=np.zeros((2, 1)), label=np.array(labels))
            assert read(tmp_path / "arrays.npz")[0].labels == expected
    parquet.write_table(arrow.table({"x": [1.0, 2.0], "label": [["C", "E"], []]}), tmp_path / "lists.parquet")
    assert read(tmp_path / "lists.parquet", multi=True)[0].labels == [{"C", "E"}, frozenset()]
    with pytest.raises(
        DataError, match=r"row 1, column label: expected a label, got \['C', 'E'\]. Several at once need --multi"
    ):
        read(tmp_path / "lists.parquet")
    parquet.write_table(arrow.table([[1.0], [2.0]], names=["x", "x"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="expected columns of different names, got x, x"):
        read(tmp_path / "twice.parquet")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"inputs": np.zeros((2, 0))}, r"expected an array of numbers \(T, F\), got float64 of shape \(2, 0\)"),
        ({"inputs": np.zeros((2, 0, 3))}, r"got float64 of shape \(2, 0, 3\)"),
        ({"inputs": np.full((2, 1), 1e300)}, r"row 1, column 1: expected at most 3.4e\+38 in size, got 1e\+300"),
        (
            {"inputs": np.zeros(2), "time": np.zeros(3)},
            r"expected time to be seconds, .* each of 2 steps, got float64 of shape .3,.",
        ),
        ({"inputs": np.zeros(2), "time": np.array(["a", "b"])}, "expected time to be seconds"),
        ({"inputs": np.zeros(2), "time": np.array([0, np.nan])}, "row 2, column time: expected a finite number, got nan"),
        (
            {"inputs": np.zeros(2), "label": np.array([["a"], ["b"]])},
            "expected one label a step, .*several at once need --multi",
        ),
        ({"label": np.zeros(2)}, "expected one array of inputs beside the labels, got 0."),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, problem: str) -> None:
    np.savez(tmp_path / "arrays.npz", **arrays)
    with pytest.raises(DataError, match=f"arrays.npz.*{problem}"):
        read(tmp_path / "arrays.npz")


def test_an_array_whose_header_promises_more_than_there_is_memory_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9999), }".ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header)
    with pytest.raises(DataError, match=r"huge.npy: expected an array that fits into memory"):
        read(tmp_path / "huge.npy")
