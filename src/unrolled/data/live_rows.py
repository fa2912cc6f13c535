"""Rows of numbers as they arrive: from standard input, or from a CSV file that grows."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from unrolled.data.tables import as_float32, as_number, is_number, separator_of, split_rows
from unrolled.errors import DataError

POLL = 0.01
"""Seconds between looks at a file that has no more lines for now."""


class Arrived(NamedTuple):
    """One step."""

    name: str
    """What a person calls it: "standard input, row 7", "/dev/video0, 1.40 s"."""
    at: float
    """When its line, or its frame, was whole, by `time.perf_counter`."""
    inputs: np.ndarray
    """Numbers (F,) as float32; of video what is read of a picture, as in `Sequence`."""


def rows(path: str = "-", ignored: Collection[str] = ()) -> Iterator[Arrived]:
    """Each row as soon as its line is whole; a first line without numbers names the columns.

    Standard input ends when its writer closes it. A file is waited for without end, from its first line on.

    Args:
        path: a CSV file, or - for standard input.
        ignored: names of columns that are no inputs.

    Raises:
        DataError: it cannot be read, or a row is not what the first one was; its number and column are named.
    """
    source = "standard input" if path == "-" else path
    separator = ""
    columns: list[str] = []
    kept: list[int] = []
    for number, line in enumerate(_typed() if path == "-" else _growing(path), 1):
        at, name = time.perf_counter(), f"{source}, row {number:,}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            separator = separator or separator_of(text)
            cells = next(split_rows([text], separator), [])
        except (UnicodeDecodeError, csv.Error):
            raise DataError(f"{name}: expected a row of numbers as CSV in UTF-8, got {line[:40]!r}.") from None
        if not cells:
            continue
        if not columns:
            header = not any(map(is_number, cells))
            columns = [cell.strip() for cell in cells] if header else [str(n + 1) for n in range(len(cells))]
            kept = [n for n, column in enumerate(columns) if column not in ignored]
            if header:
                continue
        if len(cells) != len(columns):
            raise DataError(f"{name}: expected {len(columns)} columns, got {len(cells)}.")
        numbers = np.array([[as_number(cells[n], source, number, columns[n]) for n in kept]])
        yield Arrived(name, at, as_float32(source, numbers, [columns[n] for n in kept], number)[0])


def _typed() -> Iterator[bytes]:
    yield from iter(sys.stdin.buffer.readline, b"")


def _growing(path: str) -> Iterator[bytes]:
    """Lines of a file, and those that are written behind them."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            rest = b""
            while True:
                rest += file.readline()
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
                elif os.fstat(file.fileno()).st_size < file.tell():
                    raise DataError(f"{path}: expected a file that grows, it has become shorter. Start again with --follow.")
                else:
                    time.sleep(POLL)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
