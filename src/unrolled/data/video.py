"""Video as pictures at even times: files that PyAV opens, and folders and tar archives of frames."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from unrolled.data import sources
from unrolled.data.features import FeatureCache, digest
from unrolled.data.images import read_image
from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError

ENDINGS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".ogv")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
FRAMES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
AT_ONCE = 32
"""Frames that the CNN gets together."""
LONGEST_SHOWN = 3600
"""Seconds that one frame may be shown: every step takes memory, and a longer time is a fault of the file's clock."""
INSTALL = "pip install 'unrolled[labelling]'"


class Frame(NamedTuple):
    """A picture of a video."""

    time: float
    """Seconds since the first."""
    picture: Image.Image
    """RGB, upright."""


def frames(source: Source, rate: float) -> Iterator[Frame]:
    """The pictures that a video shows at 0, 1 / rate, 2 / rate ... seconds, by the frames' own times.

    A folder or a tar archive of frames, in the order of the numbers in their names, has no times: each of its frames is a step.

    Args:
        source: a video, a folder or an archive.
        rate: steps per second.

    Raises:
        DataError: no video, without a video stream, damaged or cut short, or a frame is shown for over an hour.
    """
    if source.content is None and Path(source.path).is_dir():
        return _of_folder(source.path, rate)
    if source.path.lower().endswith(ARCHIVES) or (source.content is not None and tarfile.is_tarfile(_file_of(source))):
        return _of_archive(source, rate)
    return sampled(_decoded(source), rate, source.path)


def sampled(shown: Iterator[tuple[Fraction, Fraction, Any]], rate: float, path: str) -> Iterator[Frame]:
    """Of frames (beginning, end, frame) those that are shown at 0, 1 / rate, 2 / rate ... seconds after the first begins.

    A frame is shown until the next begins, the last one until its own end. Only those that are shown at such a time become
    pictures, and a video of one frame has one step.

    Args:
        shown: in their order.
        rate: steps per second.
        path: in errors.

    Raises:
        DataError: a frame is shown for over an hour.
    """
    step, before, start = Fraction(1) / Fraction(rate).limit_denominator(1 << 20), None, Fraction(0)
    count = 0
    for begin, end, frame in shown:
        if before is None:
            start = begin
        else:
            yield from _while_shown(before[1], begin - start, count, step, path)
            count = max(count, -((start - begin) // step))
        before = (end - start, frame)
    if before is not None:
        yield from _while_shown(before[1], before[0] if count else max(before[0], step / 2), count, step, path)


def _while_shown(frame: Any, until: Fraction, count: int, step: Fraction, path: str) -> Iterator[Frame]:
    """Steps from number `count` on that come before `until`."""
    if (seconds := until - count * step) > LONGEST_SHOWN:
        raise DataError(
            f"{path}: expected frames that are shown for an hour at most, got {float(seconds):,.0f} s without a new one after "
            f"{float(count * step):.2f} s. To give the frames new times: ffmpeg -i {path} -vf setpts=N/25/TB -r 25 even.mp4"
        )
    picture = None
    while count * step < until:
        picture = picture or _picture(frame)
        yield Frame(float(count * step), picture)
        count += 1


def _picture(frame: Any) -> Image.Image:
    picture = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def all_frames(path: str, rate: float) -> Iterator[tuple[float, np.ndarray]]:
    """Every picture of a video, whatever its rate: (seconds since the first, (height, width, 3) bytes, upright).

    Args:
        path: of a video, a folder or an archive.
        rate: frames per second of a folder or an archive, which have no times.

    Raises:
        DataError: as `frames`.
    """
    source = Source(path)
    if Path(path).is_dir() or path.lower().endswith(ARCHIVES):
        yield from ((frame.time, np.asarray(frame.picture.convert("RGB"))) for frame in frames(source, rate))
        return
    first: Fraction | None = None
    for begin, _, frame in _decoded(source):
        first = begin if first is None else first
        yield float(begin - first), np.asarray(_picture(frame))


def _file_of(source: Source) -> IO[bytes]:
    return open(source.path, "rb") if source.content is None else io.BytesIO(source.content)


def _decoded(source: Source) -> Iterator[tuple[Fraction, Fraction, Any]]:
    """As `decoded`, of a file, which has to be whole."""
    path = source.path
    av = library(path)
    first, end = None, Fraction(0)
    try:
        with av.open(path if source.content is None else io.BytesIO(source.content)) as container:
            for begin, end, frame, damaged in decoded(container, path):
                first = begin if first is None else first
                if damaged:
                    raise DataError(_cut(path, begin - first, "a damaged frame"))
                yield begin, end, frame
            if first is None:
                raise DataError(f"{path}: expected frames, got a video without one that is whole. Is it cut short?")
            stated, reached = _stated(container, container.streams.video[0]), max(end, end - first)  # Matroska counts from 0
            if stated is not None and reached < stated - max(Fraction(1, 2), stated / 10):
                raise DataError(_cut(path, end - first, f"it says {float(stated):.2f} s"))
            if problem := _cut_at_its_end(source, container.format.name):
                raise DataError(_cut(path, end - first, problem))
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        if end:
            raise DataError(_cut(path, end, reason)) from None
        raise DataError(f"{path}: expected a whole video, got one that cannot be read ({reason}). Is it cut short?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def library(path: str) -> Any:
    """PyAV.

    Raises:
        DataError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise DataError(f"{path}: reading video needs the package av: {INSTALL}") from None
    return av


def decoded(container: Any, path: str, damaged: bool = False) -> Iterator[tuple[Fraction, Fraction, Any, bool]]:
    """Of what PyAV opened: when each frame of its video begins and ends, in seconds, the frame, and whether it is damaged.

    Args:
        container: open.
        path: in errors.
        damaged: whether what cannot be decoded at all is passed over; else it is PyAV's error.

    Raises:
        DataError: it has no video.
    """
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise DataError(f"{path}: expected a video stream, got a file of {kinds} only.")
    stream, end = container.streams.video[0], Fraction(0)
    usual = 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, 25)
    for packet in container.demux(stream):
        try:
            several = packet.decode()
        except library(path).error.InvalidDataError:
            if not damaged:
                raise
            continue
        for frame in several:
            base = frame.time_base or stream.time_base
            begin = end if frame.pts is None or base is None else frame.pts * base
            end = begin + (frame.duration * base if frame.duration and base else usual)
            yield begin, end, frame, packet.is_corrupt or frame.is_corrupt


def _stated(container: Any, stream: Any) -> Fraction | None:
    """How long the file says the video is, in seconds, where it says so; a file's own length may be that of its sound."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, 1_000_000) if container.duration and not container.streams.audio else None


def _cut_at_its_end(source: Source, form: str) -> str | None:
    """What is wrong with the end of a file in one of the formats of which FFmpeg takes a part of a frame for a frame."""
    with _file_of(source) as file:
        size = file.seek(0, os.SEEK_END)
        if form == "gif":
            file.seek(max(0, size - 64))
            return None if file.read().rstrip(b"\0\r\n").endswith(b";") else "its last byte is missing"
        file.seek(4)
        stated = int.from_bytes(file.read(4), "little") + 8  # of RIFF; 8 where it was written to a pipe
    return f"it says {stated:,} bytes, {size:,} are there" if form == "avi" and stated > size else None


def _cut(path: str, seconds: Fraction, reason: str) -> str:
    return (
        f"{path}: expected a whole video, got one that is damaged or cut short after {float(seconds):.2f} s ({reason}). "
        f"To keep what is whole: ffmpeg -i {path} -t {float(seconds):.2f} whole.mp4"
    )


def _of_folder(path: str, rate: float) -> Iterator[Frame]:
    try:
        names = sorted((name for name in os.listdir(path) if _is_frame(name)), key=_by_numbers)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    if not names:
        raise DataError(f"{path}: expected a folder of frames ({', '.join(FRAMES)}), got one without any.")
    for number, name in enumerate(names):
        yield Frame(number / rate, read_image(Path(path, name)))


def _of_archive(source: Source, rate: float) -> Iterator[Frame]:
    path = source.path
    try:
        with _file_of(source) as file, tarfile.open(fileobj=file) as archive:
            members = sorted(
                (one for one in archive if one.isfile() and _is_frame(one.name)), key=lambda one: _by_numbers(one.name)
            )
            if not members:
                raise DataError(f"{path}: expected an archive of frames ({', '.join(FRAMES)}), got one without any.")
            for number, member in enumerate(members):
                opened = archive.extractfile(member) or io.BytesIO()
                yield Frame(number / rate, read_image(opened.read(), name=f"{path}, {member.name}"))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a tar archive of frames ({' '.join(str(error).split())[:100]}).") from None


def is_folder_of_frames(path: str) -> bool:
    """Whether a folder is one video: pictures are in it."""
    return os.path.isdir(path) and any(map(_is_frame, os.listdir(path)))


def find(path: str) -> list[Source]:
    """The videos of a name: a file, what comes through a pipe, or a folder of frames itself, of any other folder all videos in
    it and below.

    Raises:
        DataError: there is no such file, or the folder has none.
    """
    if is_folder_of_frames(path):
        return [Source(path)]
    if not os.path.isdir(path):
        return sources.find([path], binary=True)
    found: list[str] = []
    for here, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if is_folder_of_frames(here):
            found.append(here)
        else:
            inside = (
                name for name in sorted(names) if name.lower().endswith((*ENDINGS, *ARCHIVES)) and not name.startswith(".")
            )
            found += [os.path.join(here, name) for name in inside]
    if not found:
        raise DataError(f"{path}: expected videos ({', '.join((*ENDINGS, *ARCHIVES))}) or folders of frames, got none.")
    return list(map(Source, found))


def read(source: Source, rate: float, size: int) -> Sequence:
    """The pictures of a video as bytes (T, size, size, 3), resized, not cropped, with their times.

    Raises:
        DataError: as `frames`.
    """
    times, pictures = [], []
    for frame in frames(source, rate):
        times.append(frame.time)
        pictures.append(pixels(frame.picture, size))
    return Sequence(source.path, np.stack(pictures), None, np.array(times))


def pixels(picture: Image.Image, size: int) -> np.ndarray:
    """What is read of one picture: bytes (size, size, 3)."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0))


def features(source: Source, rate: float, cache: FeatureCache) -> Sequence:
    """What a pretrained CNN says of the pictures of a video, (T, C), kept in its cache, with their times.

    Raises:
        DataError: as `frames`; the cache cannot be written.
    """
    times: list[float] = []
    found: list[np.ndarray] = []
    several = frames(source, rate)
    while batch := list(islice(several, AT_ONCE)):
        pixels = [cache.encoder.pixels(frame.picture) for frame in batch]
        keys = [digest(one.numpy().tobytes()) for one in pixels]
        cache.fill(keys, pixels.__getitem__)
        found.append(cache.read(keys).flatten(1).numpy())
        times += [frame.time for frame in batch]
    return Sequence(source.path, np.concatenate(found), None, np.array(times))


def _is_frame(name: str) -> bool:
    return name.lower().endswith(FRAMES) and not os.path.basename(name).startswith(".")


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """`frame10` behind `frame9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]
