"""Pictures of images: sheets, canvases through time with the windows, and a few lines for the screen."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from unrolled import files
from unrolled.tasks.drawing.draw import Drawn

_SMALLEST = 84
"""Pixels: smaller images are enlarged by a whole number, so that a person sees something."""
_APART = 4
_READING, _WRITING = "#1b9e77", "#d95f02"
"""Of windows; two that colour-blind people tell apart."""


def sheet(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, C, height, width), 0..1, side by side in rows."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    return _grid([_picture(one) for one in images], columns)


def sheet_of_steps(drawn: Drawn, images: Tensor | None = None, shown: int = 10) -> Image.Image:
    """A row for each image: its canvas at `shown` of the steps, with the window it was written through.

    With the `images` that it read, above each row another: the image, with the window it was read through.
    """
    steps = np.unique(np.linspace(1, len(drawn.canvases) - 1, shown).round().astype(int))
    pictures = []
    for n in range(drawn.canvases.shape[1]):
        if images is not None:
            pictures += [_read(drawn, images, step, n) for step in steps]
        pictures += [_written(drawn, step, n) for step in steps]
    return _grid(pictures, len(steps))


def frames(drawn: Drawn, images: Tensor | None = None) -> list[Image.Image]:
    """The same as a picture for each step, images side by side; what was read is to the left of what is drawn from it."""
    found = []
    for step in range(len(drawn.canvases)):
        pictures, count = [], drawn.canvases.shape[1]
        for n in range(count):
            pictures += [] if images is None else [_read(drawn, images, step, n)]
            pictures.append(_written(drawn, step, n))
        columns = math.ceil(math.sqrt(count)) * (1 if images is None else 2)
        found.append(_grid(pictures, columns))
    return found


def write(path: Path, picture: Image.Image) -> None:
    """A PNG; missing folders above it are made.

    Raises:
        RunError: the file cannot be written.
    """
    content = io.BytesIO()
    picture.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content.getvalue())


def text(images: Tensor) -> str:
    """Images (N, C, height, width), 0..1, side by side for the screen, two rows of pixels in a line.

    >>> import torch
    >>> print(text(torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])))
    █▄
    """
    bright = (images.mean(1) > 0.5).cpu().numpy()  # (N, height, width)
    if bright.shape[1] % 2:
        bright = np.pad(bright, ((0, 0), (0, 1), (0, 0)))
    signs = np.array([" ", "▄", "▀", "█"])[2 * bright[:, ::2] + bright[:, 1::2]]
    return "\n".join("  ".join("".join(row) for row in rows) for rows in signs.swapaxes(0, 1))


def _picture(image: Tensor) -> Image.Image:
    levels = (image.clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    picture = Image.fromarray(levels if levels.shape[2] == 3 else levels[:, :, 0]).convert("RGB")
    times = _times(*picture.size)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _times(width: int, height: int) -> int:
    return max(1, -(-_SMALLEST // max(width, height)))


def _written(drawn: Drawn, step: int, n: int) -> Image.Image:
    picture = _picture(drawn.canvases[step, n])
    return _framed(picture, drawn.writing, step, n, drawn.canvases.shape[-1], _WRITING)


def _read(drawn: Drawn, images: Tensor, step: int, n: int) -> Image.Image:
    return _framed(_picture(images[n]), drawn.reading, step, n, images.shape[-1], _READING)


def _framed(picture: Image.Image, windows: Tensor | None, step: int, n: int, width: int, colour: str) -> Image.Image:
    """With the window of a step from 1 on; before the first there is none."""
    if windows is not None and step:
        top, left, bottom, right = (windows[step - 1, n] * (picture.width / width)).tolist()
        ImageDraw.Draw(picture).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
    return picture


def _grid(pictures: Iterable[Image.Image], columns: int) -> Image.Image:
    pictures = list(pictures)
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = columns * (width + _APART) - _APART, rows * (height + _APART) - _APART
    grid = Image.new("RGB", size, "#808080")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        grid.paste(picture, (column * (width + _APART), row * (height + _APART)))
    return grid
