"""Sequences of numbers, one row a step: NumPy arrays (npy, npz), CSV and Parquet tables, with or without a column of labels.

A table's columns are inputs, but for those of the labels, of the sequence (which says to which a row belongs) and of the
`time`. An npz has one array of inputs, (T, F) or (T,), or of pictures, (T, height, width) or (T, height, width, channels), and
may have one of labels: names (T,), or for several at once true and false (T, L).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.data import numpy_files
from unrolled.data.sequences import Sequence, parse_label
from unrolled.data.sources import Source
from unrolled.errors import DataError

LABEL, TIME = "label", "time"
"""Columns of these names are no inputs."""


def read(source: Source, *, label: str | None = None, sequence: str = "sequence", multi: bool = False) -> Iterator[Sequence]:
    """The sequences of a file.

    Args:
        source: the file; its ending says what it is.
        label: the column or array of the labels; by default `label`, where there is one.
        sequence: the column that says to which sequence a row belongs, where there is one.
        multi: several labels at once, with | between them.

    Raises:
        DataError: it cannot be read; a number is missing or not finite (row and column are named); there is no such column.
    """
    ending = Path(source.path.removesuffix(".gz")).suffix.lower()
    if ending in (".npy", ".npz"):
        yield _of_arrays(source.path, label, multi)
    elif ending == ".parquet":
        yield from _of_table(source.path, _parquet_rows(source.path), label, sequence, multi)
    else:
        yield from _of_table(source.path, _csv_rows(source, "\t" if ending == ".tsv" else None), label, sequence, multi)


def as_float32(name: str, numbers: np.ndarray, columns: Iterable[str] = (), first_row: int = 1) -> np.ndarray:
    """Numbers (T, ...) as float32, if all of them are such.

    Raises:
        DataError: one is missing (NaN), infinite, or larger than float32 has; its row and column are named.
    """
    with np.errstate(over="ignore"):
        inputs = np.ascontiguousarray(numbers, dtype=np.float32)
    wrong = ~np.isfinite(inputs.reshape(len(inputs), math.prod(inputs.shape[1:])))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        names, got = list(columns), numbers.reshape(wrong.shape)[row, column]
        where = names[column] if names else str(column + 1)
        what = f"at most {np.finfo(np.float32).max:.1e} in size" if np.isfinite(got) else "a finite number"
        advice = "Scale the column." if np.isfinite(got) else "Fill the gap or leave the row out."
        raise DataError(f"{name}, row {row + first_row:,}, column {where}: expected {what}, got {got}. {advice}")
    return inputs


def as_inputs(name: str, array: np.ndarray) -> np.ndarray:
    """An array of numbers as float32, with a column for what has none: (T,) -> (T, 1), and of grey pictures with a channel:
    (T, height, width) -> (T, height, width, 1).

    Raises:
        DataError: no numbers, none at a step, or not finite ones.
    """
    if array.dtype.kind not in "fiub" or not array.ndim or 0 in array.shape[1:]:
        raise DataError(f"{name}: expected an array of numbers (T, F), got {array.dtype} of shape {array.shape}.")
    if array.ndim in (1, 3):
        array = array[..., np.newaxis]
    elif array.ndim > 4:
        raise DataError(f"{name}: expected an array of rows (T, F) or of pictures, got one of shape {array.shape}.")
    return as_float32(name, array)


def _of_arrays(path: str, label: str | None, multi: bool) -> Sequence:
    arrays = numpy_files.read(path)
    key = label or next((name for name in (LABEL, "labels") if name in arrays), LABEL)
    labels = arrays.pop(key, None)
    if label and labels is None:
        raise DataError(f"{path}: expected an array of labels called {label!r}, got {', '.join(arrays)}.")
    times = arrays.pop(TIME, None)
    if len(arrays) != 1:
        names = f": {', '.join(arrays)}" if arrays else ""
        raise DataError(f"{path}: expected one array of inputs beside the labels, got {len(arrays)}{names}.")
    inputs = as_inputs(path, next(iter(arrays.values())))
    if times is not None:
        if times.dtype.kind not in "fiu" or times.shape != (len(inputs),):
            got = f"{times.dtype} of shape {times.shape}"
            raise DataError(f"{path}: expected {TIME} to be seconds, a number for each of {len(inputs):,} steps, got {got}.")
        times = _seconds(path, times)
    if labels is None:
        return Sequence(path, inputs, None, times)
    if labels.ndim and len(labels) != len(inputs):
        raise DataError(f"{path}: expected a label for each of {len(inputs):,} steps, got {len(labels):,}.")
    if multi and labels.ndim == 2 and labels.dtype.kind in "biu":
        return Sequence(path, inputs, [frozenset(map(str, np.flatnonzero(row))) for row in labels], times)
    if labels.ndim > 1:
        advice = "with --multi true and false of each" if multi else "several at once need --multi"
        raise DataError(f"{path}: expected one label a step, got {labels.dtype} of shape {labels.shape}; {advice}.")
    named = [_label(one, path, step, key, multi) for step, one in enumerate(labels.reshape(-1).tolist(), 1)]
    return Sequence(path, inputs, named if labels.ndim else named[0], times)


Row = tuple[int, dict[str, Any]]
"""Its number in the file, and its cells by column."""


def _of_table(path: str, rows: Iterable[Row], label: str | None, sequence: str, multi: bool) -> Iterator[Sequence]:
    """Rows of one sequence follow each other."""
    named: str | None = None
    done: set[str] = set()
    steps: list[Row] = []

    def finished() -> Sequence:
        name = path if named is None else f"{path}, sequence {named}"
        return _of_rows(name, steps, label, sequence, multi)

    for number, cells in rows:
        own = str(cells[sequence]) if sequence in cells else None
        if steps and own != named:
            yield finished()
            done.add(str(named))
            steps = []
        if own in done:
            raise DataError(f"{path}, row {number:,}: sequence {own} goes on after another. Sort the rows by sequence.")
        named = own
        steps.append((number, cells))
    if steps:
        yield finished()


def _of_rows(name: str, steps: list[Row], label: str | None, sequence: str, multi: bool) -> Sequence:
    columns = list(steps[0][1])
    if label and label not in columns:
        raise DataError(f"{name}: expected a column of labels called {label!r}, got {', '.join(columns)}.")
    label = label or (LABEL if LABEL in columns else None)
    read = [column for column in columns if column not in (label, sequence, TIME)]
    if not read:
        raise DataError(f"{name}: expected columns of numbers, got {', '.join(columns)}.")
    first = steps[0][0]
    numbers = np.array([[as_number(cells[one], name, number, one) for one in read] for number, cells in steps])
    times = np.array([as_number(cells[TIME], name, n, TIME) for n, cells in steps]) if TIME in columns else None
    labels = [_label(cells[label], name, n, label, multi) for n, cells in steps] if label else None
    inputs = as_float32(name, numbers, read, first)
    return Sequence(name, inputs, labels, times if times is None else _seconds(name, times, first))


def as_number(cell: Any, name: str, row: int, column: str) -> float:
    """The number of a cell, which errors call by its row and column.

    Raises:
        DataError: it has none.
    """
    try:
        if isinstance(cell, str) and "_" in cell:  # which Python reads over: 1_0 is a name
            raise ValueError
        return float(cell)
    except (TypeError, ValueError):
        missing = cell is None or cell == ""
        advice = (
            "Fill the gap or leave the row out."
            if missing
            else "It is a clock, in seconds."
            if column == TIME
            else "--label-column names that of the labels."
        )
        where = f"{name}, row {row:,}, column {column}"
        raise DataError(f"{where}: expected a number, got {'nothing' if missing else repr(cell)[:40]}. {advice}") from None


def _seconds(name: str, times: np.ndarray, first_row: int = 1) -> np.ndarray:
    """Times (T,) as float64, all of them finite."""
    as_float32(name, times.reshape(-1, 1), (TIME,), first_row)
    return times.astype(np.float64)


def _label(cell: Any, name: str, row: int, column: str, multi: bool) -> str | frozenset[str]:
    """A cell's label; what is missing, NaN among it, is none. With `multi` a cell may be a list of them."""
    if isinstance(cell, list) and multi:
        return frozenset(label for one in cell if (label := str(_label(one, name, row, column, False))))
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, (list, dict)):
        advice = "Several at once need --multi." if isinstance(cell, list) else "Name another --label-column."
        raise DataError(f"{name}, row {row:,}, column {column}: expected a label, got {repr(cell)[:40]}. {advice}")
    missing = cell is None or cell != cell  # NaN alone is not itself
    return parse_label("" if missing else str(cell).strip(), multi)


def whole_lines(source: Source) -> Iterator[str]:
    """The lines of a text with their ends, \\n, \\r or \\r\\n; other signs that break lines are part of them."""
    rest = ""
    for block in source.text():
        several = io.StringIO(rest + block, newline="").readlines() or [""]
        rest = several.pop()  # the next block may go on with it
        yield from several
    if rest:
        yield rest


def separator_of(line: str) -> str:
    """What stands between the cells of a table's first line: a comma, a semicolon or a tab."""
    return max(",;\t", key=line.count)


def split_rows(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    """The cells of each row of a CSV. Where no comma separates them it stands in numbers, as in 1,5, which becomes 1.5.

    >>> list(split_rows(['1,5; 2;"a;b"'], ";"))
    [['1.5', '2', 'a;b']]
    """
    for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True):
        yield cells if separator == "," else [_COMMA.sub(r"\1.\2", cell) for cell in cells]


_COMMA = re.compile(r"^(\s*[-+]?\d+),(\d+(?:[eE][-+]?\d+)?\s*)$")


def _csv_rows(source: Source, separator: str | None) -> Iterator[Row]:
    """A first line without numbers names the columns, which otherwise are 1, 2, 3 ...; rows count from 1, the header among
    them."""
    lines = whole_lines(source)
    first, number = next(lines, ""), 0
    names: list[str] = []
    try:
        for number, cells in enumerate(split_rows(chain([first], lines), separator or separator_of(first)), 1):
            if not cells:
                continue
            if not names:
                header = not any(map(is_number, cells))
                names = [cell.strip() for cell in cells] if header else [str(n + 1) for n in range(len(cells))]
                if len(set(names)) < len(names):
                    raise DataError(f"{source.path}: expected columns of different names, got {', '.join(names)}.")
                if header:
                    continue
            if len(cells) != len(names):
                raise DataError(f"{source.path}, row {number:,}: expected {len(names)} columns, got {len(cells)}.")
            yield number, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{source.path}, row {number + 1:,}: cannot be read as CSV ({error}).") from None


def is_number(cell: str) -> bool:
    """Whether the text of a cell reads as a number, NaN and infinity among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _parquet_rows(path: str) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs the package pyarrow: pip install 'unrolled[labelling]'.") from None
    number = 0
    try:
        file = parquet.ParquetFile(path)
        if len(set(names := file.schema_arrow.names)) < len(names):
            raise DataError(f"{path}: expected columns of different names, got {', '.join(names)}.")
        for batch in file.iter_batches():
            for cells in batch.to_pylist():
                number += 1
                yield number, cells
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0][:100]}).") from None
