"""What a painter looks at: windows on a picture and its canvas, and the map of its states.

At level m the longer side of the picture is m cores of 24 pixels. A window is 32 pixels wide: a core, and 4 pixels around it.
Every second look the grid of windows is moved by half a core, so that no border stays a border. The painter's states are a map
with a cell for each half core: a window reads the mean of the four cells that it covers, and writes all four.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

WINDOW, CORE, MARGIN = 32, 24, 4
"""Pixels."""


class Grid(NamedTuple):
    """Windows in `rows` and `columns` on a picture, of which the longer side has `longer` pixels at this level."""

    rows: int
    columns: int
    moved: bool
    longer: int

    @classmethod
    def of(cls, height: int, width: int, moved: bool) -> Grid:
        """That of a picture of this size."""
        return cls(math.ceil(height / CORE) + moved, math.ceil(width / CORE) + moved, moved, max(height, width))

    @property
    def before(self) -> int:
        """Pixels of the first windows that are outside the picture, above it and on its left."""
        return MARGIN + self.moved * CORE // 2

    def windows(self, pictures: Tensor) -> Tensor:
        """(B, C, height, width) -> (B * rows * columns, C, 32, 32), row by row; outside, the picture's edge repeats itself."""
        return self._cut(pad(pictures, self._frame(*pictures.shape[2:]), mode="replicate"))

    def inside(self, height: int, width: int) -> Tensor:
        """Which pixels of the windows on one picture are not beyond its edge, 1 or 0: (rows * columns, 1, 32, 32)."""
        return self._cut(pad(torch.ones(1, 1, height, width), self._frame(height, width)))

    def read(self, states: Tensor) -> Tensor:
        """The states of windows, (B * rows * columns, H), from the map (B, H, 2 rows, 2 columns) of the grid not moved."""
        means = avg_pool2d(states, 2, padding=int(self.moved), count_include_pad=False)
        return means.permute(0, 2, 3, 1).flatten(0, 2)

    def write(self, states: Tensor) -> Tensor:
        """The map of the states of windows: the inverse of `read`."""
        cells = states.unflatten(0, (-1, self.rows, self.columns)).permute(0, 3, 1, 2)
        cells = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return cells[:, :, 1:-1, 1:-1] if self.moved else cells

    def in_picture(self, points: Tensor, radii: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From units of a window, for all windows of a picture or those at `which` (N,), to units of the picture's longer side.

        Args:
            points, radii: (N, K, ...).
        """
        n = torch.arange(self.rows * self.columns, device=points.device) if which is None else which
        corner = torch.stack([n % self.columns, n // self.columns], 1) * CORE - self.before
        return (points * WINDOW + corner[:, None, None]) / self.longer, radii * (WINDOW / self.longer)

    def _frame(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Pixels that the windows reach beyond the picture: left, right, above, below."""
        right, below = (
            count * CORE + 2 * MARGIN - self.before - size for count, size in ((self.columns, width), (self.rows, height))
        )
        return self.before, right, self.before, below

    def _cut(self, framed: Tensor) -> Tensor:
        return framed.unfold(2, WINDOW, CORE).unfold(3, WINDOW, CORE).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def finer(states: Tensor, height: int, width: int) -> Tensor:
    """The map of states for the next level: each cell becomes four. `height` and `width` are the picture's there, in pixels."""
    rows, columns = (2 * math.ceil(size / CORE) for size in (height, width))
    return states.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :rows, :columns]


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """(B, C, ...) -> (B, C, height, width): means where it becomes smaller, else linear."""
    if pictures.shape[2] >= height:
        return interpolate(pictures, size=(height, width), mode="area")
    return interpolate(pictures, size=(height, width), mode="bilinear")
