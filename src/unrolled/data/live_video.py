"""Video as it arrives: from a camera, a stream, a pipe, or a file that grows."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from unrolled.data import video
from unrolled.data.live_rows import POLL, Arrived
from unrolled.errors import DataError

SILENCE = 10.0
"""Seconds without anything new after which a camera or a stream is given up; until then Ctrl-C may have to wait for it."""
CAMERAS = "/dev/video"
"""How Linux calls cameras."""


def arriving(path: str, rate: float, look: Callable[[Image.Image], np.ndarray], form: str | None = None) -> Iterator[Arrived]:
    """What is shown at 0, 1 / rate, 2 / rate ... seconds, as `video.frames` samples it, each as soon as it is known.

    What is shown at a time is known when the first frame behind that time is there. `at` is when that one was decoded. Damaged
    frames, which streams have, are left out: the one before is shown in their place.

    Args:
        path: a camera (/dev/video0), an address (rtsp://...), a pipe, a file that grows, or - for standard input. A file is
            waited for until its format says that it ends.
        rate: steps per second.
        look: what is read of a picture.
        form: FFmpeg's name of the format or the device, where it cannot be told from the path.

    Raises:
        DataError: it cannot be opened or read, has no video, nothing came for SILENCE seconds, or the file has become shorter.
    """
    at = 0.0

    def shown() -> Iterator[tuple[Fraction, Fraction, Any]]:
        nonlocal at
        for begin, end, frame in _decoded(path, form):
            at = time.perf_counter()
            yield begin, end, frame

    for frame in video.sampled(shown(), rate, path):
        yield Arrived(f"{path}, {frame.time:.2f} s", at, look(frame.picture))


def _decoded(path: str, form: str | None) -> Iterator[tuple[Fraction, Fraction, Any]]:
    av = video.library(path)
    pipe: _Pipe | None = None
    found = False
    try:
        with ExitStack() as stack:
            if form is None and path.startswith(CAMERAS):
                form = "v4l2"
            if path == "-":
                pipe = _Pipe(path, sys.stdin.buffer.read1)  # type: ignore[attr-defined]  # of a buffered reader
            elif os.path.exists(path) and not path.startswith(CAMERAS):
                file = stack.enter_context(open(path, "rb", buffering=0))
                grows = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                pipe = _Pipe(path, file.read, file.fileno() if grows else None)
            # A pipe has a clock of its own: waiting for it is no fault.
            waits = SILENCE if pipe is None else None
            container = stack.enter_context(av.open(pipe or path, format=form, timeout=waits))
            for begin, end, frame, damaged in video.decoded(container, path, damaged=True):
                found = True
                if not damaged:
                    yield begin, end, frame
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except av.FFmpegError as error:
        if pipe is not None and pipe.interrupted:
            raise KeyboardInterrupt from None
        raise DataError(_unreadable(path, error, av, found, is_file=pipe is not None)) from None
    except ValueError:  # what PyAV raises for the name of a format
        raise DataError(
            f"{path}: expected a format or device that PyAV has here, got {form}. --format names another."
        ) from None
    if pipe is not None and pipe.interrupted:
        raise KeyboardInterrupt
    if not found:
        raise DataError(f"{path}: expected frames, got a stream that ended without one that is whole.")


def _unreadable(path: str, error: Any, av: Any, found: bool, is_file: bool) -> str:
    if isinstance(error, av.error.ExitError):
        return f"{path}: nothing has come for {SILENCE:g} s. Start again when it sends."
    reason = error.strerror or type(error).__name__
    if found:
        return f"{path}: the stream broke off ({reason})."
    hint = " Of a file that is whole, label it without --follow." if is_file else " --format says what it is."
    return f"{path}: expected video that can be read from its beginning on, got what cannot ({reason}).{hint}"


class _Pipe:
    """What PyAV reads instead of a file. It has no `seek`, so it is read from front to back.

    Ctrl-C is kept for later, for PyAV would lose it: the stream ends, and `interrupted` says why.

    Args:
        path: in errors.
        read: gives what is there, at most so many bytes; nothing at the end.
        grows: the file to wait for at the end, by its descriptor.
    """

    def __init__(self, path: str, read: Callable[[int], bytes], grows: int | None = None) -> None:
        self.path, self._read, self._grows = path, read, grows
        self.interrupted = False
        self._done = 0

    def read(self, size: int) -> bytes:
        try:
            while not self.interrupted:
                content = self._read(size)
                self._done += len(content)
                if content or self._grows is None:
                    return content
                if os.fstat(self._grows).st_size < self._done:
                    raise DataError(
                        f"{self.path}: expected a file that grows, it has become shorter. Start again with --follow."
                    )
                time.sleep(POLL)
        except KeyboardInterrupt:
            self.interrupted = True
        return b""
