"""Rows of numbers on disk, raw beside a JSON sidecar, so that training maps the file rather than reading it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from unrolled import files
from unrolled.errors import RunError


class RowFile(BaseModel):
    """The metadata of a file of rows, kept beside it as JSON."""

    model_config = ConfigDict(strict=True)

    rows: int = Field(ge=0, le=2**53)
    shape: tuple[NonNegativeInt, ...] = Field(strict=False)
    """Of one row; () where a row is one number."""
    dtype: Literal["bool", "uint8", "int32", "int64", "float32", "float64"]


class RowWriter:
    """Writes FOLDER/NAME.bin row by row, and at the end FOLDER/NAME.json."""

    def __init__(self, folder: Path, name: str, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self.folder, self.name, self.dtype, self.shape, self.rows = folder, name, np.dtype(dtype), shape, 0

    def __enter__(self) -> Self:
        self._file = open(self.folder / f"{self.name}.bin", "wb")  # closed in __exit__
        return self

    def __exit__(self, *failed: object) -> None:
        self._file.close()
        facts = RowFile(rows=self.rows, shape=self.shape, dtype=self.dtype.name)  # type: ignore[arg-type]  # checked there
        (self.folder / f"{self.name}.json").write_text(facts.model_dump_json())

    def add(self, rows: np.ndarray) -> None:
        """Append rows (N, *shape)."""
        assert rows.shape[1:] == self.shape, (rows.shape, self.shape)
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)


def open_rows(folder: Path, name: str) -> np.ndarray:
    """The rows of FOLDER/NAME.bin, memory-mapped: (N, *shape).

    Raises:
        RunError: missing, or not as long as its sidecar says.
    """
    facts, path = files.read_as(folder / f"{name}.json", RowFile), folder / f"{name}.bin"
    files.require_file(path)
    shape = (facts.rows, *facts.shape)
    expected, got = math.prod(shape) * np.dtype(facts.dtype).itemsize, path.stat().st_size
    if got != expected:
        raise RunError(f"{path}: expected {expected:,} bytes ({facts.rows:,} rows), got {got:,}. Restore it or train again.")
    if not expected:
        return np.zeros(shape, facts.dtype)
    try:
        return np.memmap(path, dtype=facts.dtype, mode="r", shape=shape)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({files.reason(error)}).") from None
