"""Pictures of looking: the image with the path and the patches of the glimpse, and under it all that has been seen so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from unrolled.inspection.sheets import APART, enlarged, grid
from unrolled.tasks.glimpse.generate import Look
from unrolled.tasks.glimpse.retina import Retina

_SIDE, _CAPTION, _COLUMNS = 120, 16, 12
"""Pixels of an image's longer side at least, of a caption; glimpses of a sheet at most."""
_PATH, _PATCH, _GROUND, _NEVER = "#ff7f0e", "#2ca02c", "#ffffff", 64
"""Colours of the path, of the patches, of what is around; the grey of what was not seen."""


def sheet(several: Sequence[Look], size: int, scales: int) -> Image.Image:
    """A row for each image, a column for each glimpse: of many, `_COLUMNS` of them, spread evenly. What was read sooner ends
    sooner."""
    count = max(len(look.glimpses) for look in several)
    shown = np.unique(np.linspace(0, count - 1, min(count, _COLUMNS)).round().astype(int))
    rows = [_steps(look, size, scales) for look in several]
    empty = Image.new("RGB", rows[0][0].size, _GROUND)
    return grid([row[step] if step < len(row) else empty for row in rows for step in shown], len(shown), _GROUND, apart=0)


def frames(several: Sequence[Look], size: int, scales: int) -> list[Image.Image]:
    """A picture for each glimpse, of all images side by side; the last of what was read sooner stays."""
    columns = min(len(several), max(4, math.ceil(math.sqrt(len(several)))))
    rows = [_steps(look, size, scales) for look in several]
    return [
        grid([row[min(step, len(row) - 1)] for row in rows], columns, _GROUND, apart=0) for step in range(max(map(len, rows)))
    ]


def seen_so_far(look: Look, size: int, scales: int) -> Iterable[np.ndarray]:
    """After each glimpse (C, height, width), 0..1: each pixel at the finest scale at which it has been seen; elsewhere NaN."""
    sides = look.image.shape[1:]
    retina = Retina(torch.from_numpy(look.image)[None], size, scales)
    known, finest = np.full(look.image.shape, np.nan, np.float32), np.full(sides, scales)
    for glimpse in look.glimpses:
        place = torch.tensor([[glimpse.row, glimpse.column]]) / torch.tensor(sides) * 2 - 1
        patches = retina.look(place)[0].numpy()  # (scales, C, n, n)
        for scale in reversed(range(scales)):
            wide = patches[scale].repeat(2**scale, 1).repeat(2**scale, 2)
            top, left = (round(centre - wide.shape[1] / 2) for centre in glimpse[:2])
            inside = [
                slice(max(0, start), max(0, min(side, start + wide.shape[1])))
                for start, side in zip((top, left), sides, strict=True)
            ]
            own = wide[:, inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left]
            better = finest[*inside] >= scale
            known[:, *inside] = np.where(better, own, known[:, *inside])
            finest[*inside] = np.minimum(finest[*inside], scale)
        yield known.copy()


def _steps(look: Look, size: int, scales: int) -> list[Image.Image]:
    """After each glimpse: the image with the path, what has been seen, and what was said."""
    pictures = []
    for step, seen in enumerate(seen_so_far(look, size, scales)):
        above = _looking(look, step, size, scales)
        below = enlarged(np.where(np.isnan(seen), _NEVER / 255, seen), _SIDE)
        picture = Image.new("RGB", (above.width, 2 * above.height + APART + _CAPTION), _GROUND)
        picture.paste(above, (0, 0))
        picture.paste(below, (0, above.height + APART))
        said = look.glimpses[step]
        font = ImageFont.load_default(_CAPTION - 4)
        text = f"{said.label} {said.probability:.0%}"
        ImageDraw.Draw(picture).text((2, 2 * above.height + APART + 1), text, fill="black", font=font)
        pictures.append(ImageOps.expand(picture, APART, _GROUND))
    return pictures


def _looking(look: Look, step: int, size: int, scales: int) -> Image.Image:
    picture = enlarged(look.image, _SIDE)
    draw, times = ImageDraw.Draw(picture), picture.height / look.image.shape[1]
    centres = [(glimpse.column * times, glimpse.row * times) for glimpse in look.glimpses[: step + 1]]
    for scale in reversed(range(scales)):
        half = size * 2**scale / 2 * times
        x, y = centres[-1]
        draw.rectangle((x - half, y - half, x + half, y + half), outline=_PATCH, width=1 if scale else 2)
    if len(centres) > 1:
        draw.line(centres, fill=_PATH, width=2)
    for x, y in centres:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_PATH)
    return picture
