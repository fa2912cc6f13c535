"""Labels that stand beside the files they are of: a CSV of file, label; a CSV of file, start, end, label; names of folders."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unrolled.data import sources
from unrolled.data.sequences import Sequence, parse_label
from unrolled.data.sources import Source
from unrolled.data.tables import is_number, separator_of, split_rows, whole_lines
from unrolled.errors import DataError

FILE = ("file", "filename", "file_name", "path", "name", "recording", "audio", "video", "clip")
START = ("start", "begin", "onset", "from", "start_time")
END = ("end", "stop", "offset", "to", "end_time")
LABEL = ("label", "labels", "class", "category", "action", "tag", "event")
FORM = "Expected are the columns file, label or file, start, end, label (seconds), with a header or in this order"


class Segment(NamedTuple):
    """A label from one time to another, in seconds; of a whole file `start` is None."""

    row: int
    """In the file of labels."""
    start: float | None
    end: float
    label: str


class LabelFile:
    """The labels of a CSV, by file.

    Args:
        path: of the CSV; comma, semicolon or tab.
        multi: several labels at once: with | between them, in several rows of a file, or in segments that overlap.
        label: the column of the labels, a name or a number from 1; by default the one called label or the like, or the last.

    Raises:
        DataError: it cannot be read, other columns, a time that is no number, a segment that ends before it begins; without
            `multi` segments that overlap, or a file with two labels for the whole.
    """

    def __init__(self, path: str, multi: bool = False, label: str | None = None) -> None:
        self.path, self.multi = path, multi
        self.segments: dict[str, list[Segment]] = {}
        """Of each file, as the table calls it, by time."""
        self._files: dict[str, str] = {}
        for file, segment in self._rows(label):
            self.segments.setdefault(file, []).append(segment)
        if not self.segments:
            raise DataError(f"{path}: expected labels, got no row. {FORM}.")
        for file, several in self.segments.items():
            several.sort(key=lambda one: (-1.0 if one.start is None else one.start, one.row))
            self._require_in_order(file, several)

    def __iter__(self) -> Iterator[str]:
        """The files, by their paths, in the order of the table."""
        for file, several in self.segments.items():
            path = os.path.join(os.path.dirname(self.path), os.path.expanduser(file))
            if not os.path.exists(path):
                raise DataError(f"{self.path}, row {min(one.row for one in several):,}: no such file: {path}.")
            self._files[path] = file
            yield path

    def labelled(self, sequence: Sequence, path: str, per_step: bool = True) -> Iterator[Sequence]:
        """The sequence of a file with its labels: one for the whole, or by segments one for each step, that of the segment in
        which the step begins, and none ("") in no segment. Without `per_step` each segment becomes a sequence.

        Args:
            sequence: read from the file.
            path: of the file, as given by `iter`.
            per_step: whether steps are labelled.

        Raises:
            DataError: a segment lies outside the file, or the sequence has no clock, or one that goes backward.
        """
        segments = self.segments[self._files[path]]
        if segments[0].start is None:
            labels = [parse_label(one.label, self.multi) for one in segments]
            yield replace(sequence, labels=frozenset().union(*labels) if self.multi else labels[0])  # type: ignore[arg-type]  # multi: sets
            return
        times = sequence.times
        if times is None:
            raise DataError(f"{sequence.name}: expected a clock for the segments of {self.path}, got steps without times.")
        if (back := np.flatnonzero(np.diff(times) < 0)).size:
            got = f"{times[back[0] + 1]:g} s behind {times[back[0]]:g} s"
            raise DataError(f"{sequence.name}: expected a clock that goes forward, got {got}. Sort its rows by time.")
        for segment in segments:
            self._require_inside(sequence.name, segment, times)
        if per_step:
            yield replace(sequence, labels=self._by_step(segments, times))
            return
        for segment in segments:
            own = slice(*_steps(segment, times))
            name = f"{sequence.name}, {segment.start:g} to {segment.end:g} s"
            yield Sequence(name, sequence.inputs[own], parse_label(segment.label, self.multi), times[own])

    def _by_step(self, segments: list[Segment], times: np.ndarray) -> list[str] | list[frozenset[str]]:
        several: list[list[str]] = [[] for _ in times]
        for segment in segments:
            for own in several[slice(*_steps(segment, times))]:
                own.append(segment.label)
        if not self.multi:
            return [own[0] if own else "" for own in several]
        return [frozenset().union(*(parse_label(label, True) for label in own)) for own in several]  # type: ignore[arg-type]  # sets

    def _require_inside(self, name: str, segment: Segment, times: np.ndarray) -> None:
        step = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else math.inf
        length = float(times[-1]) + step if len(times) else 0.0
        assert segment.start is not None
        if segment.start >= length or segment.end > length + step:  # of the last step only a part may be there
            raise DataError(
                f"{self.path}, row {segment.row:,}: expected a segment inside {name} ({length:.2f} s), got "
                f"{segment.start:g} to {segment.end:g} s."
            )

    def _require_in_order(self, file: str, several: list[Segment]) -> None:
        if self.multi:
            return
        for before, after in pairwise(several):
            if before.start is None or after.start is None:
                raise DataError(f"{self.path}, rows {before.row:,} and {after.row:,}: expected one label for {file}, got two.")
            if after.start < before.end - 1e-9:
                raise DataError(
                    f"{self.path}, rows {before.row:,} and {after.row:,}: expected segments of {file} that do not overlap, got "
                    f"{before.label} until {before.end:g} s and {after.label} from {after.start:g} s. For several labels at "
                    "once add --multi."
                )

    def _rows(self, label: str | None) -> Iterator[tuple[str, Segment]]:
        columns: Columns | None = None
        for row, cells in _cells(self.path):
            if columns is None:
                columns, header = _columns(self.path, cells, label)
                if header:
                    continue
            needed = 1 + max(column for column in columns if column is not None)
            if len(cells) < needed:
                raise DataError(f"{self.path}, row {row:,}: expected {needed} columns, got {len(cells)}. {FORM}.")
            yield self._row(row, cells, columns)

    def _row(self, row: int, cells: list[str], columns: Columns) -> tuple[str, Segment]:
        file, label = cells[columns.file], cells[columns.label]
        if not file:
            raise DataError(f"{self.path}, row {row:,}: expected the name of a file, got nothing.")
        if not label and not self.multi:
            raise DataError(f"{self.path}, row {row:,}: expected a label, got nothing.")
        if columns.start is None or columns.end is None:
            return file, Segment(row, None, math.inf, label)
        start, end = (_seconds(self.path, row, cells[column]) for column in (columns.start, columns.end))
        if not 0 <= start < end:
            raise DataError(
                f"{self.path}, row {row:,}: expected a segment that begins at 0 s or later and ends after that, got "
                f"{start:g} to {end:g} s."
            )
        return file, Segment(row, start, end, label)


class Columns(NamedTuple):
    """Where in a row what stands."""

    file: int
    label: int
    start: int | None = None
    end: int | None = None


def lists_files(path: str, endings: tuple[str, ...]) -> bool:
    """Whether a file is a table of files and their labels: its first row names one of such an ending, or one that is there."""
    if not path.lower().endswith((".csv", ".tsv")) or sources.kind_of(path) != "file":
        return False
    try:
        rows = list(islice(_cells(path), 2))
        columns, header = _columns(path, rows[0][1], None)
        file = rows[1 if header else 0][1][columns.file]
    except (DataError, IndexError):
        return False
    return file.lower().endswith(endings) or os.path.exists(os.path.join(os.path.dirname(path), file))


def from_folders(sequence: Sequence, path: str, multi: bool = False) -> Sequence:
    """The sequence of a file, labelled by the folder that the file is in: `digits/seven/01.wav` is `seven`."""
    name = Path(path).resolve().parent.name
    return replace(sequence, labels=parse_label(name, multi))


def _cells(path: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not empty, with their numbers from 1."""
    if (kind := sources.kind_of(path)) != "file":
        raise DataError(f"{path}: expected a CSV of labels, got {'none' if kind == 'nothing' else f'a {kind}'}. {FORM}.")
    source = Source(os.path.expanduser(path), encoding="auto")
    if problem := source.not_text():
        raise DataError(f"{path}: expected a CSV of labels, got {problem}.")
    lines = whole_lines(source)
    first, row = next(lines, ""), 0
    try:
        for row, cells in enumerate(split_rows(chain([first], lines), separator_of(first)), 1):
            if any(cell.strip() for cell in cells):
                yield row, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path}, row {row + 1:,}: cannot be read as CSV ({error}).") from None


def _columns(path: str, cells: list[str], label: str | None) -> tuple[Columns, bool]:
    """By the header, and True; without one by position, and False."""
    names = [cell.lower() for cell in cells]

    def find(known: Iterable[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    own = (
        None
        if label is None
        else int(label) - 1
        if label.isdecimal()
        else next(iter(n for n, c in enumerate(cells) if c == label), -1)
    )
    if own is not None and not 0 <= own < len(cells):
        raise DataError(f"{path}: expected a column of labels called {label!r}, got {', '.join(cells)}.")
    file, found, start, end = (find(known) for known in (FILE, LABEL, START, END))
    if file is not None and (own if own is not None else found) is not None:
        if (start is None) != (end is None):
            raise DataError(f"{path}: expected both start and end of each segment, got the columns {', '.join(cells)}. {FORM}.")
        return Columns(file, own if own is not None else found, start, end), True  # type: ignore[arg-type]  # was found
    if len(cells) == 2:
        return Columns(0, 1 if own is None else own), False
    if len(cells) == 4 and is_number(cells[1]) and is_number(cells[2]):
        return Columns(0, 3 if own is None else own, 1, 2), False
    raise DataError(f"{path}, row 1: got {len(cells)} columns: {', '.join(cells)}. {FORM}.")


def _seconds(path: str, row: int, cell: str) -> float:
    if not is_number(cell) or not math.isfinite(float(cell)):
        raise DataError(f"{path}, row {row:,}: expected a time in seconds, got {cell!r}.")
    return float(cell)


def _steps(segment: Segment, times: np.ndarray) -> tuple[int, int]:
    """The first step that begins in the segment, and the first behind it."""
    first, last = np.searchsorted(times, [segment.start - 1e-9, segment.end - 1e-9])  # type: ignore[operator]
    return int(first), int(last)
