"""Sound as log-mel features, a row for each step of time; read in blocks, so that a recording may be longer than memory."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
FLOOR = 1e-10
"""Power below which all is silence: less than the rounding of samples of 16 bits makes."""
BLOCK = 1 << 16
"""Samples read at a time."""
_SIZE = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile notes of a WAV, AIFF or AU file whose header says more bytes than there are; it reads those there are."""
_WHOLE = re.compile(r"^RIFF\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
"""The same of the whole file."""
_UNKNOWN = 0x7FFF_F000
"""Bytes: programs that write to a pipe say so many or more, for they do not know yet."""
HIGHEST_RATE = 10_000_000
"""Samples per second: more is no sound."""
LOUDEST = 1e12
"""Samples of floating-point files may be of any size; of larger ones the power would not be finite."""
INSTALL = "pip install 'unrolled[labelling]'"


@dataclass(frozen=True)
class LogMel:
    """Log-mel features: the logarithm of the power in bands of the mel scale (Davis and Mermelstein 1980, Slaney 1998).

    Step t is of the sound from t * step on, as long as the window; behind the end there is silence.
    """

    rate: int = 16000
    """Samples per second, to which other rates are resampled."""
    bands: int = 40
    step: float = 0.01
    """Seconds from one step to the next."""
    window: float = 0.025
    """Seconds that a step sees."""

    @property
    def hop(self) -> int:
        """Samples from one step to the next."""
        return max(1, round(self.step * self.rate))

    @cached_property
    def _bank(self) -> tuple[int, np.ndarray]:
        """The length of the Fourier transform, and of each band the weight of each frequency (F, bands)."""
        filters = _library("librosa.filters")
        size = 1 << (max(2, round(self.window * self.rate)) - 1).bit_length()
        while True:  # the narrowest band is still to hold a frequency
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of bands without a frequency, which are looked for here
                bank = filters.mel(sr=self.rate, n_fft=size, n_mels=self.bands)
            if bank.any(axis=1).all():
                return size, bank.T
            size *= 2

    def rows(self, samples: np.ndarray, steps: int) -> np.ndarray:
        """Samples (n,), of which the last step needs a window -> (steps, bands)."""
        size, bank = self._bank
        window = max(2, round(self.window * self.rate))
        each = np.lib.stride_tricks.sliding_window_view(samples, window)[:: self.hop][:steps]
        spectrum = np.fft.rfft(each * np.hanning(window + 1)[:-1].astype(np.float32), size)
        return np.log(np.maximum(np.abs(spectrum) ** 2 @ bank, FLOOR)).astype(np.float32)

    def of(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks of samples -> blocks of rows (t, bands), a row for every `hop` samples that began."""
        window, kept = max(2, round(self.window * self.rate)), np.zeros(0, np.float32)
        for block in blocks:
            kept = np.concatenate([kept, block])
            steps = (len(kept) - window) // self.hop + 1
            if steps > 0:
                yield self.rows(kept, steps)
                kept = kept[steps * self.hop :]
        steps = math.ceil(len(kept) / self.hop)
        if steps:
            yield self.rows(np.pad(kept, (0, window)), steps)


def read(source: Source, features: LogMel) -> Sequence:
    """The features of a recording, (T, bands), with the times of its steps; channels are averaged. Without samples T is 0.

    Raises:
        DataError: it cannot be read, is cut short, or has samples that are not finite.
    """
    rows = [np.zeros((0, features.bands), np.float32), *features.of(samples(source, features.rate))]
    inputs = np.concatenate(rows)
    return Sequence(source.path, inputs, None, np.arange(len(inputs)) * (features.hop / features.rate))


def samples(source: Source, rate: int) -> Iterator[np.ndarray]:
    """A recording's samples in blocks (n,), float32, about 1 in size, channels averaged, resampled to `rate` per second.

    Raises:
        DataError: as `read`.
    """
    soundfile, path, done, own = _library("soundfile"), source.path, 0, rate
    try:
        with soundfile.SoundFile(path if source.content is None else io.BytesIO(source.content)) as file:
            own = file.samplerate
            if not 1 <= own <= HIGHEST_RATE:
                raise DataError(f"{path}: expected a sampling rate from 1 to {HIGHEST_RATE:,} Hz, got {own:,}. Is it damaged?")
            if problem := _cut_short(file.extra_info, file.frames):
                where = f"cut short after {file.frames / own:.2f} s ({problem})"
                raise DataError(
                    f"{path}: expected a whole recording, got one that is {where}. "
                    f"To keep what is there: ffmpeg -i {path} whole{Path(path).suffix}"
                )
            resampler = None if own == rate else _library("soxr").ResampleStream(own, rate, 1, dtype="float32")
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                mono = block.mean(axis=1)
                if (bad := np.flatnonzero(~(np.abs(mono) <= LOUDEST))).size:  # so that NaN is one
                    raise DataError(
                        f"{path}: expected samples that are numbers, about 1 in size, got {mono[bad[0]]:g} after "
                        f"{(done + int(bad[0])) / own:.3f} s."
                    )
                done += len(block)
                yield mono if resampler is None else resampler.resample_chunk(mono)
            if done < file.frames:
                raise DataError(f"{path}: expected {file.frames:,} samples, got {done:,}: the file is cut short.")
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        if "SF_INFO" in reason:  # what libsndfile says where the rate or the number of channels is zero
            reason = "a sampling rate or a number of channels of zero"
        where = f" after {done / own:.2f} s" if done else ""
        raise DataError(f"{path}: expected a whole recording, got one that cannot be read{where} ({reason}).") from None


def _cut_short(log: str, frames: int) -> str | None:
    """What libsndfile noted of a file that ends too early, of which it reads what there is; None if it noted nothing.

    Of MP3 without a header that counts its frames nothing can be known.
    """
    if "without an End-Of-Stream flag" in log:  # Ogg marks its last page
        return "its last page is missing"
    whole = _WHOLE.search(log)
    if not frames and whole and int(whole[2]) < int(whole[1]) < _UNKNOWN:
        return "within its header"
    found = _SIZE.search(log)
    stated, there = (int(found[1]), int(found[2])) if found else (0, 0)
    if stated - there < 8 or stated >= _UNKNOWN:  # some writers are wrong by less than a sample of two channels
        return None
    return f"its header says {stated:,} bytes of sound, {there:,} are there"


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"reading sound needs the package {name.partition('.')[0]}: {INSTALL}") from None
