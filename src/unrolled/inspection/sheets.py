"""Small images made large enough for a person, side by side, and written as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from unrolled import files
from unrolled.data.images import MAX_PIXELS

APART = 4
"""Pixels between pictures."""


def enlarged(image: np.ndarray, least: int) -> Image.Image:
    """An image (1 or 3, height, width), 0..1, by the whole number that brings its longer side to `least` pixels or more."""
    levels = np.round(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(levels if levels.shape[2] == 3 else levels[:, :, 0]).convert("RGB")
    times = _times(least, *picture.size)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def room(least: int, height: int, width: int) -> int:
    """How many images of that size, `enlarged` to `least`, one file may show: no sheet of more pixels is opened again, and
    pictures that play are all held until they are written.

    >>> room(84, 28, 28)
    23109
    """
    times = _times(least, height, width)
    return MAX_PIXELS // ((times * height + APART) * (times * width + APART))


def grid(pictures: Iterable[Image.Image], columns: int, ground: str, apart: int = APART) -> Image.Image:
    """Pictures of one size in rows, so many pixels from each other, on a ground of this colour."""
    pictures = list(pictures)
    width, height = (side + apart for side in pictures[0].size)
    sheet = Image.new("RGB", (columns * width - apart, -(-len(pictures) // columns) * height - apart), ground)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * width, row * height))
    return sheet


def write(path: str | Path, picture: Image.Image) -> Path:
    """A PNG; missing folders above it are made.

    Raises:
        RunError: the file cannot be written.
    """
    path, content = Path(path), io.BytesIO()
    picture.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content.getvalue())
    return path


def _times(least: int, *sides: int) -> int:
    return max(1, -(-least // max(sides)))
