"""Features of photos, computed once and cached on disk, memory-mapped.

A cache is one folder per encoder, named by its fingerprint: `features.bin`, one row of 16-bit floats per photo, and
`keys.bin`, the digest of each row's photo. Rows are only ever added, under a lock and before their keys, so a kill leaves whole
rows, and what it left behind the last key is overwritten. Several processes may fill one cache. Rows that are gone, because a
file was cut short or removed, are computed anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from unrolled.encoders import Encoder
from unrolled.errors import DataError

DIGEST = 16
FEATURES, KEYS = "features.bin", "keys.bin"
BATCH = 32
Report = Callable[[int, int], None]


def default_folder() -> Path:
    """`$UNROLLED_CACHE`, or `unrolled` in the user's cache folder."""
    if given := os.environ.get("UNROLLED_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unrolled"


def digest(content: bytes, mirrored: bool = False) -> bytes:
    """The key of a photo: a hash of its file's content and of whether it is mirrored."""
    return hashlib.sha256(content + (b"mirrored" if mirrored else b"")).digest()[:DIGEST]


class FeatureCache:
    """The cached features of one encoder.

    Args:
        encoder: computes them.
        folder: where caches are; `default_folder()` when left out.
    """

    def __init__(self, encoder: Encoder, folder: Path | None = None) -> None:
        self.encoder = encoder
        self.folder = (folder or default_folder()) / "features" / encoder.fingerprint()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot make this folder ({error.strerror}). Name another in UNROLLED_CACHE."
            ) from None
        self.shape = (encoder.places, encoder.channels)
        self._lock = FileLock(self.folder / "lock")
        self._row_size = math.prod(self.shape) * np.dtype(np.float16).itemsize
        self._read_keys()

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Which of the keys have no row yet, as positions."""
        self._read_keys()
        return [position for position, key in enumerate(keys) if key not in self._rows]

    def fill(
        self,
        keys: Sequence[bytes],
        photo: Callable[[int], Tensor],
        mirrored: Sequence[bytes] = (),
        report: Report | None = None,
    ) -> dict[int, str]:
        """Compute the features of every photo that is not there yet; return what is wrong with those that cannot be read.

        Args:
            keys: `digest` of each photo.
            photo: position -> its pixels, (3, size, size) bytes; raises `DataError` where it cannot be read.
            mirrored: the keys of their mirror images, if these are computed too.
            report: called with how many are done and how many there are to do.

        Raises:
            DataError: the disk is full or refuses; what is there is kept.
        """
        wanted = sorted({*self.missing(keys), *(self.missing(mirrored) if mirrored else ())})
        problems: dict[int, str] = {}
        for begin in range(0, len(wanted), BATCH):
            pixels: dict[int, Tensor] = {}
            for position in wanted[begin : begin + BATCH]:
                try:
                    pixels[position] = photo(position)
                except DataError as error:
                    problems[position] = str(error)
            if pixels:
                stacked = torch.stack(list(pixels.values()))
                self._add([keys[position] for position in pixels], self._compute(stacked))
                if mirrored:
                    self._add([mirrored[position] for position in pixels], self._compute(stacked.flip(-1)))
            if report:
                report(min(begin + BATCH, len(wanted)), len(wanted))
        return problems

    def read(self, keys: Sequence[bytes]) -> Tensor:
        """The features of these photos, (N, P, F), 32-bit; all must be there.

        Raises:
            DataError: the cache was damaged meanwhile; it is emptied, to be filled anew.
        """
        if not keys:
            return torch.empty(0, *self.shape)
        features = np.empty((len(keys), *self.shape), np.float16)
        try:
            with open(self.folder / FEATURES, "rb") as file:
                for number, key in enumerate(keys):  # not memory-mapped: a file that is cut short ends a process that maps it
                    file.seek(self._rows[key] * self._row_size)
                    whole = file.readinto(features[number].data.cast("B")) == self._row_size
                    if not whole or not np.isfinite(features[number]).all():
                        raise ValueError
        except (OSError, ValueError, KeyError):
            with contextlib.suppress(OSError):
                (self.folder / KEYS).unlink()
            raise DataError(
                f"{self.folder}: the cached features were damaged and are removed. Run this command again."
            ) from None
        return torch.from_numpy(features.astype(np.float32))

    def _compute(self, pixels: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return self.encoder(pixels).half().numpy()

    def _add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        try:
            with self._lock:
                self._read_keys()  # another process may have been here
                new = {key: row for key, row in zip(keys, features, strict=True) if key not in self._rows}
                rows = b"".join(row.tobytes() for row in new.values())
                _write_at(self.folder / FEATURES, self._count * self._row_size, rows)
                _write_at(self.folder / KEYS, self._count * DIGEST, b"".join(new))
                self._read_keys()
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot write features ({error.strerror}). What was there is kept; make room, or name "
                "another folder in UNROLLED_CACHE."
            ) from None

    def _read_keys(self) -> None:
        """Of every row that is there whole: a kill may have cut the last key short, anything the features."""
        try:
            content = (self.folder / KEYS).read_bytes()
            size = (self.folder / FEATURES).stat().st_size
        except FileNotFoundError:
            content, size = b"", 0
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot be read ({error.strerror}). Remove the folder, or name another in UNROLLED_CACHE."
            ) from None
        self._count = min(len(content) // DIGEST, size // self._row_size)
        self._rows = {content[i * DIGEST : (i + 1) * DIGEST]: i for i in range(self._count)}


def _write_at(path: Path, offset: int, content: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+b") as file:
        file.seek(offset)
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
