"""Pictures of images: sheets, canvases through time with the windows, and a few lines for the screen."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from unrolled.inspection.sheets import enlarged, grid
from unrolled.tasks.drawing.draw import Drawn

SMALLEST = 84
"""Pixels: smaller images are enlarged by a whole number, so that a person sees something."""
_READING, _WRITING = "#1b9e77", "#d95f02"
"""Of windows; two that colour-blind people tell apart."""
_GROUND = "#808080"
"""Between images."""


def sheet(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, C, height, width), 0..1, side by side in rows."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    return grid([_picture(one) for one in images], columns, _GROUND)


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
    return grid(pictures, len(steps), _GROUND)


def frames(drawn: Drawn, images: Tensor | None = None) -> list[Image.Image]:
    """The same as a picture for each step, images side by side; what was read is to the left of what is drawn from it."""
    found = []
    for step in range(len(drawn.canvases)):
        pictures, count = [], drawn.canvases.shape[1]
        for n in range(count):
            pictures += [] if images is None else [_read(drawn, images, step, n)]
            pictures.append(_written(drawn, step, n))
        columns = math.ceil(math.sqrt(count)) * (1 if images is None else 2)
        found.append(grid(pictures, columns, _GROUND))
    return found


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
    return enlarged(image.cpu().numpy(), SMALLEST)


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
