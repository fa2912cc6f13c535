"""A video with the label of each moment written below it, and a strip of all of them with the moment marked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unrolled import files
from unrolled.errors import DataError
from unrolled.inspection.label_styles import Style, styles
from unrolled.label_metrics import segments

_NARROWEST, _LONGEST = 480, 1280
"""Pixels: smaller frames are enlarged by a whole number, of larger ones the longer side becomes this."""
_TEXT, _STRIP = 30, 14
_TICKS = 1000
"""A second, in the units that frames are timed by."""
NOT_INSTALLED = "writing video needs the package av: pip install 'unrolled[labelling]'"


def write(
    path: str | os.PathLike[str],
    frames: Iterable[tuple[float, np.ndarray]],
    labels: Sequence[str],
    times: Sequence[float] | np.ndarray,
    *,
    truth: Sequence[str] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """Write an MP4 (H.264, without sound) of the frames with their labels; return its path.

    Frames keep their times, even or not. At the path is the old file or the whole new one, never a part.

    Args:
        path: where to; missing folders above it are made.
        frames: in order of time, such as `data.video.all_frames` reads them.
        labels: T names.
        times: (T,) seconds at which each begins to hold; the last one holds to the end.
        truth: what the labels should be; wrong moments say so.
        names: the labels in the order by which they get their colours.

    Raises:
        ValueError: no labels, or another number of times or true labels.
        DataError: PyAV is not installed, or there are no frames.
        RunError: the file cannot be written.
    """
    av, path = _av(), Path(path)
    if not len(labels) or len(times) != len(labels) or (truth is not None and len(truth) != len(labels)):
        counts = f"times {len(times)}" + ("" if truth is None else f", truth {len(truth)}")
        raise ValueError(f"annotated_video.write expected labels and as many of all: labels {len(labels)}, {counts}.")
    looks = styles([*names, *sorted({*labels, *(truth or [])})])
    rows = [labels] if truth is None else [truth, labels]
    times = np.asarray(times, dtype=np.float64)
    end = float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced_atomically(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        stream = below = None
        last = -1
        for seconds, frame in frames:
            picture = _sized(Image.fromarray(frame))
            if stream is None or below is None:
                stream = _stream(container, picture.width, picture.height + _TEXT + _STRIP * len(rows))
                below = _strips(rows, times, end, looks, stream.width)
            step = max(int(np.searchsorted(times, seconds, "right")) - 1, 0)
            said, true = labels[step], labels[step] if truth is None else truth[step]
            text = said if said == true else f"{said}   (true: {true})"
            canvas = Image.new("RGB", (stream.width, stream.height), "white")
            canvas.paste(picture.resize((stream.width, stream.height - _TEXT - below.height)), (0, 0))
            canvas.paste(below, (0, stream.height - below.height))
            _mark(canvas, text, looks[said], seconds, seconds / end, below.height)
            encoded = av.VideoFrame.from_image(canvas)
            last = max(round(seconds * _TICKS), last + 1)
            encoded.pts, encoded.time_base = last, Fraction(1, _TICKS)
            container.mux(stream.encode(encoded))
        if stream is None:
            raise DataError(f"{path}: expected frames to write, got none.")
        container.mux(stream.encode(None))
    return path


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise DataError(NOT_INSTALLED) from None
    return av


def _stream(container: Any, width: int, height: int) -> Any:
    """Of even sides, which H.264 asks for where colours have half the resolution."""
    stream = container.add_stream("libx264", rate=30, options={"crf": "20", "preset": "veryfast"})
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    stream.codec_context.time_base = Fraction(1, _TICKS)
    return stream


def _sized(picture: Image.Image) -> Image.Image:
    if max(picture.size) > _LONGEST:
        picture.thumbnail((_LONGEST, _LONGEST))
    times = -(-_NARROWEST // picture.width) if picture.width < _NARROWEST else 1
    size = (picture.width * times, picture.height * times)
    return picture.resize(size, Image.Resampling.NEAREST) if times > 1 else picture


def _strips(rows: Sequence[Sequence[str]], times: np.ndarray, end: float, looks: dict[str, Style], width: int) -> Image.Image:
    """The labels of the whole video from left to right, one row for the truth and one for what was predicted."""
    picture = Image.new("RGB", (width, _STRIP * len(rows)), "white")
    canvas = ImageDraw.Draw(picture)
    edges = np.append(times, end) / end * width
    for row, labels in enumerate(rows):
        for label, start, stop in segments(labels):
            left, right, look = round(edges[start]), max(round(edges[stop]) - 1, round(edges[start])), looks[label]
            top = row * _STRIP
            canvas.rectangle((left, top, right, top + _STRIP - 2), fill=look.colour)
            for mark in range(look.mark):  # lines, where colours are used a second time
                canvas.line((left, top + 3 + 3 * mark, right, top + 3 + 3 * mark), fill=look.ink)
    return picture


def _mark(canvas: Image.Image, text: str, look: Style, seconds: float, share: float, strips: int) -> None:
    draw, top = ImageDraw.Draw(canvas), canvas.height - strips - _TEXT
    draw.rectangle((6, top + 7, 6 + 16, top + 23), fill=look.colour, outline="black")
    draw.text((30, top + 5), text[:60], font=_font(), fill="black")
    draw.text((canvas.width - 8, top + 5), f"{seconds:.1f} s", font=_font(), fill="black", anchor="ra")
    x = min(share, 1) * canvas.width
    draw.line((x, top + _TEXT - 4, x, canvas.height), fill="black", width=3)


def _font() -> Any:
    from matplotlib import font_manager  # has a font of its own, the same on every machine

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 16)
