"""Pictures in every form that a painter takes, and paintings as files to look at."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unrolled import files, memory
from unrolled.data.images import read_image, to_rgb
from unrolled.errors import ConfigError
from unrolled.inspection import animation
from unrolled.strokes import Painting, render
from unrolled.strokes.painting import as_image, size_of
from unrolled.tasks.painting.windows import resized

Picture = str | Path | Image.Image | np.ndarray | Tensor
SEEN = 768
"""Pixels of the longer side of what a painter looks at; of a larger picture, no more."""
_EVERY = 1.5
"""Seconds after which the file of a growing painting is written anew."""
BYTES_A_PIXEL = 64
"""Memory that a painting takes while it is rendered: five copies of three floats, and a little."""
MEASURED = 128
"""Pixels of the longer side at which paintings are compared with their pictures."""


def pixels(picture: Picture) -> Tensor:
    """A picture in any of the forms that `Run.paint` takes as (3, height, width) in 0 to 1, of `SEEN` pixels at most.

    Raises:
        DataError: the file is no image.
        ConfigError: an array or tensor of another form, or with values outside of 0 to 1.
    """
    if isinstance(picture, (str, Path)):
        picture = read_image(picture)
    if isinstance(picture, Image.Image):
        picture = np.asarray(to_rgb(picture))
    if isinstance(picture, np.ndarray) and picture.dtype.kind in "buif":
        whole = np.iinfo(picture.dtype).max if picture.dtype.kind == "u" else 1
        values = torch.from_numpy(np.ascontiguousarray(picture / whole, np.float32))
        values = values[..., None] if values.ndim == 2 else values
        values = values.permute(2, 0, 1) if values.ndim == 3 else values
    elif isinstance(picture, Tensor) and picture.layout == torch.strided and not (picture.is_complex() or picture.is_meta):
        values = picture.detach().float().cpu() / (255 if picture.dtype == torch.uint8 else 1)
    else:
        kind = (
            f"{type(picture).__name__} of {picture.dtype}" if isinstance(picture, np.ndarray | Tensor) else repr(picture)[:80]
        )
        raise ConfigError(
            f"expected a picture: a file, an image of Pillow, or an array or tensor that holds real numbers, got {kind}."
        )
    if values.ndim != 3 or len(values) not in (1, 3, 4) or not values.numel():
        raise ConfigError(
            f"expected a picture, (height, width) or (height, width, 3 or 4) as an array, (1, 3 or 4, height, width) as a "
            f"tensor, got {tuple(picture.shape)}."
        )
    if not bool(values.isfinite().all()) or float(values.min()) < 0 or float(values.max()) > 1:
        low, high = float(values.min()), float(values.max())
        raise ConfigError(f"expected a picture of bytes, or of floats in 0 to 1, got values from {low:g} to {high:g}.")
    values = values[:3] * values[3:] + (1 - values[3:]) if len(values) == 4 else values.expand(3, *values.shape[1:])
    height, width = values.shape[1:]
    share = min(1.0, SEEN / max(height, width))
    return resized(values[None], max(1, round(height * share)), max(1, round(width * share)))[0].contiguous()


def require_room(height_to_width: float, longer: int) -> None:
    """Refuse a size of a painting before any work is done.

    Raises:
        ConfigError: more pixels than a painting can have, or than fit into this machine's memory.
    """
    height, width = size_of(height_to_width, longer)
    there, needed = memory.capacity(torch.device("cpu")), BYTES_A_PIXEL * height * width
    if there is not None and needed > there:
        raise ConfigError(
            f"size: a painting of {width:,} x {height:,} pixels takes {needed / 1e9:.1f} GB of memory, and this machine has "
            f"{there / 1e9:.1f} GB. Give a smaller one.",
            ["size"],
        )


class Growing:
    """The file of a painting, written while it is painted.

    Args:
        path: a .png or .jpg.
        longer: pixels of the longer side.
    """

    def __init__(self, path: Path, longer: int) -> None:
        self._path, self._longer, self._written = path, longer, -math.inf
        self._canvas: Tensor | None = None
        self._waiting: list[Painting] = []

    def add(self, piece: Painting) -> None:
        """Lay strokes on those before them. The file is written anew after the first, and then every `_EVERY` seconds.

        Raises:
            RunError: it cannot be written.
        """
        self._waiting.append(piece)
        if time.monotonic() - self._written <= _EVERY:
            return
        height, width = piece.size(self._longer)
        if self._canvas is None:
            self._canvas = piece.ground[:, None, None].expand(3, height, width)
        for one in self._waiting:
            self._canvas = render(one.strokes, height, width, self._canvas)
        self._waiting.clear()
        _write(self._path, self._canvas, quick=True)
        self._written = time.monotonic()

    def finish(self, painting: Painting) -> None:
        """Write the whole painting, whose strokes are no longer quite where they were when they were added.

        Raises:
            RunError: it cannot be written.
        """
        self._canvas = None
        _write(self._path, painting.render(self._longer))


def write(path: Path, painting: Painting, longer: int) -> None:
    """Write a painting as PNG or JPEG, by the ending of the name.

    Raises:
        ConfigError: a size that cannot be.
        RunError: it cannot be written.
    """
    _write(path, painting.render(longer))


def _write(path: Path, pixels: Tensor, quick: bool = False) -> None:
    content = io.BytesIO()
    if path.suffix.lower() == ".png":
        as_image(pixels).save(content, "PNG", compress_level=1 if quick else 6)
    else:
        as_image(pixels).save(content, "JPEG", quality=92)
    files.write_atomically(path, content.getvalue())


def write_film(path: Path, painting: Painting, longer: int, frames: int) -> None:
    """Write how a painting grows, as GIF or MP4 by the ending of the name.

    Raises:
        ConfigError: a size that cannot be.
        DataError: for MP4 PyAV is not installed.
        RunError: it cannot be written.
    """
    animation.write(path, [as_image(each) for each in painting.growing(longer, frames)], seconds=1 / 12)


def error(painting: Painting, picture: Tensor) -> float:
    """The mean squared error of a painting, bristles aside, where the longer side has `MEASURED` pixels."""
    height, width = painting.size(MEASURED)
    strokes = painting.strokes._replace(bristles=torch.zeros_like(painting.strokes.bristles))
    canvas = painting.ground[:, None, None].expand(3, height, width).contiguous()
    return float((render(strokes, height, width, canvas) - resized(picture[None], height, width)[0]).square().mean())
