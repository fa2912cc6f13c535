"""A photo, what the model says of it, and where it looked for each word, as one picture."""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from unrolled import files

_COLUMNS = 5
_LARGE, _SMALL = 1024, 224  # pixels on the longer side of the photo and of each map


def draw(
    path: str | os.PathLike[str],
    photo: Image.Image,
    words: Sequence[str],
    weights: Tensor | None = None,
    *,
    grid: tuple[int, int] | None = None,
) -> Path:
    """Write a PNG with the photo, its caption, and, for models that attend, a map for each word; return its path.

    A map shows the photo under a grey overlay that is clear where the weight is high; each is normalised by its highest
    weight, which stands beside the word. Weights are interpolated between places (Xu et al. 2015, Show, Attend and Tell,
    figure 3).

    Args:
        path: where to; missing folders above it are made.
        photo: as the model saw it; crop it as the encoder does, if it does.
        words: of the caption, in order.
        weights: (words, places), from 0 to 1, places row by row.
        grid: (rows, columns) of the places; square when left out.

    Raises:
        ValueError: weights of another number of words, or places that do not fill the grid.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     photo = Image.new("RGB", (64, 48), "teal")
    ...     draw(folder + "/seen.png", photo, ["all", "teal"], torch.full((2, 16), 1 / 16)).name
    'seen.png'
    """
    path, photo = Path(path), photo.copy()
    photo.thumbnail((_LARGE, _LARGE))  # matplotlib takes 16 bytes for each pixel
    maps = None if weights is None else _maps(weights, len(words), grid)
    shape = min(max(photo.height / photo.width, 0.4), 2.0)  # a thin line of a photo leaves room around it
    caption = " ".join(words) or "(nothing)"
    if maps is None or not words:
        figure = Figure(figsize=(6, 6.6 * shape + 0.8), layout="constrained")
        _show(figure.subplots(), photo, textwrap.fill(caption, 60))
    else:
        columns = min(_COLUMNS, len(words))
        rows = math.ceil(len(words) / columns)
        height = max(4 * shape + 0.8, rows * (1.7 * shape + 0.3))
        figure = Figure(figsize=(4 + 1.8 * columns, height), layout="constrained")
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[4, 1.8 * columns]))
        _show(left.subplots(), photo, textwrap.fill(caption, 36))
        small = photo.copy()
        small.thumbnail((_SMALL, _SMALL))
        for place, axes in enumerate(right.subplots(rows, columns, squeeze=False).flat):
            if place < len(words):
                _show(axes, _overlaid(small, maps[place]), f"{words[place][:20]}  {maps[place].max():.0%}", size=9)
            else:
                axes.axis("off")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, picture.getvalue())
    return path


def _maps(weights: Tensor, words: int, grid: tuple[int, int] | None) -> np.ndarray:
    """(words, rows, columns)"""
    places = weights.shape[-1]
    rows, columns = grid or (math.isqrt(places),) * 2
    if weights.shape != (words, rows * columns):
        raise ValueError(
            f"attention_maps.draw expected weights of {words} words x {rows} x {columns} places, got {tuple(weights.shape)}. "
            "Give grid=(rows, columns) if the places are not a square."
        )
    return weights.detach().float().cpu().numpy().reshape(words, rows, columns)


def _overlaid(photo: Image.Image, weights: np.ndarray) -> Image.Image:
    """The photo under a grey overlay where the weight is low, which shows beside dark parts and bright ones alike."""
    light = Image.fromarray((weights / max(float(weights.max()), 1e-12)).astype(np.float32))
    light = np.asarray(light.resize(photo.size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    overlay = 110 + 0.25 * np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((light * np.asarray(photo, dtype=np.float32) + (1 - light) * overlay).astype(np.uint8))


def _show(axes, image: Image.Image, title: str, size: float = 12) -> None:
    axes.imshow(np.asarray(image))
    axes.set_title(title.replace("$", r"\$"), fontsize=size)  # else matplotlib takes it for mathematics
    axes.axis("off")
