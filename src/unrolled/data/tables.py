"""Sequences of numbers, one row a step: NumPy arrays (npy, npz), CSV and Parquet tables, with or without a column of labels.

A table's columns are inputs, but for those of the labels, of the sequence (which says to which a row belongs) and of the
`time`. An npz has one array of inputs, (T, F) or (T,), or of pictures, (T, height, width) or (T, height, width, channels), and
may have one of labels: names (T,), or for several at once true and false (T, L).
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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
        yield from _of_table(source.path, _csv_rows(source, "\t" if ending == ".tsv" else ","), label, sequence, multi)


def require_finite(name: str, inputs: np.ndarray, columns: Iterable[str] = (), first_row: int = 1) -> np.ndarray:
    """The same numbers (T, ...), if all of them are.

    Raises:
        DataError: one is missing (NaN) or infinite; its row and column are named.
    """
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
    if not np.isfinite(flat).all():
        row, column = np.argwhere(~np.isfinite(flat))[0]
        names = list(columns)
        where = names[column] if names else str(column + 1)
        raise DataError(
            f"{name}, row {row + first_row:,}, column {where}: expected a finite number, got {flat[row, column]}. Fill the "
            "gap or leave the row out."
        )
    return inputs


def as_inputs(name: str, array: np.ndarray) -> np.ndarray:
    """An array of numbers as float32, with a column for what has none: (T,) -> (T, 1), and of grey pictures with a channel:
    (T, height, width) -> (T, height, width, 1).

    Raises:
        DataError: no numbers, none at all, or not finite ones.
    """
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise DataError(f"{name}: expected an array of numbers (T, F), got {array.dtype} of shape {array.shape}.")
    if array.ndim in (1, 3):
        array = array[..., np.newaxis]
    elif array.ndim > 4:
        raise DataError(f"{name}: expected an array of rows (T, F) or of pictures, got one of shape {array.shape}.")
    inputs = np.ascontiguousarray(array, dtype=np.float32)
    return require_finite(name, inputs)


def _of_arrays(path: str, label: str | None, multi: bool) -> Sequence:
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = dict(opened) if isinstance(opened, np.lib.npyio.NpzFile) else {"inputs": opened}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a NumPy file of numbers ({' '.join(str(error).split())[:100]}).") from None
    except TypeError:  # an .npy has no `with`
        arrays = {"inputs": np.load(path, allow_pickle=False)}
    key = label or next((name for name in (LABEL, "labels") if name in arrays), LABEL)
    labels = arrays.pop(key, None)
    if label and labels is None:
        raise DataError(f"{path}: expected an array of labels called {label!r}, got {', '.join(arrays)}.")
    times = arrays.pop(TIME, None)
    if len(arrays) != 1:
        raise DataError(f"{path}: expected one array of inputs beside the labels, got {len(arrays)}: {', '.join(arrays)}.")
    inputs = as_inputs(path, next(iter(arrays.values())))
    if labels is None:
        return Sequence(path, inputs, None, times)
    if labels.ndim and len(labels) != len(inputs):
        raise DataError(f"{path}: expected a label for each of {len(inputs):,} steps, got {len(labels):,}.")
    if multi and labels.ndim == 2:
        return Sequence(path, inputs, [frozenset(map(str, np.flatnonzero(row))) for row in labels], times)
    named = [parse_label(str(one), multi) for one in labels.reshape(-1)]
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
    inputs = np.array([[_number(cells[one], name, number, one) for one in read] for number, cells in steps], np.float32)
    inputs = require_finite(name, inputs, read, steps[0][0])
    times = np.array([_number(cells[TIME], name, n, TIME) for n, cells in steps]) if TIME in columns else None
    labels = [parse_label(str(cells[label] or ""), multi) for _, cells in steps] if label else None
    return Sequence(name, inputs, labels, times)


def _number(cell: Any, name: str, row: int, column: str) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        what = "nothing" if cell in (None, "") else repr(cell)[:40]
        raise DataError(
            f"{name}, row {row:,}, column {column}: expected a number, got {what}. --label-column names that of the labels."
        ) from None


def _csv_rows(source: Source, separator: str) -> Iterator[Row]:
    """A first line without numbers names the columns, which otherwise are 1, 2, 3 ...; rows count from 1, the header among
    them."""
    reader = csv.reader((line for block in source.text() for line in block.splitlines(keepends=True)), delimiter=separator)
    names: list[str] = []
    try:
        for number, cells in enumerate(reader, 1):
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
        raise DataError(f"{source.path}, row {reader.line_num:,}: cannot be read as CSV ({error}).") from None


def is_number(cell: str) -> bool:
    """Whether the text of a cell reads as a number, NaN and infinity among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet_rows(path: str) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs the package pyarrow: pip install 'unrolled[labelling]'.") from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for cells in batch.to_pylist():
                number += 1
                yield number, cells
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0][:100]}).") from None
