"""Brush strokes to pixels, at any resolution, differentiable with respect to everything that a stroke is.

A stroke is a quadratic Bézier curve along which a round brush moves while its radius changes evenly. How far a pixel is inside,
in pixels, is r(t) - d(t): d its distance from the nearest point of the curve, r the radius there. Coverage goes from 0 to 1
over one pixel at the edge, so that a picture of any size is free of stairs and gradients pass through the edge. Bristles are
waves across the stroke, which fade where they are finer than a pixel.

The canvas is cut into square cells. Each stroke is computed in the cells that it touches, and laid over them in order, in all
cells at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from unrolled.errors import ConfigError

SEGMENTS = 5
"""Straight pieces of a curve, among which the nearest point is sought first."""
CELLS = (8, 16, 32)
"""Sides of cells in pixels."""
PIXELS_AT_ONCE = 1 << 17
"""Without gradients, so many pixels are computed at a time: as many as a processor's cache holds."""
_WAVES = (1.3, 2.9, 5.3, 9.1)
"""Bristles: waves from the middle of a stroke to its edge."""
_STREAKS, _EDGE = 0.1, 0.1
"""How much light bristles and edges take or give."""


class Strokes(NamedTuple):
    """N strokes, in the order in which they are laid. Lengths are in units of the longer side of the picture.

    The picture's upper left corner is (0, 0); x goes right, y goes down.
    """

    points: Tensor
    """Of the curve's start, control point and end: (N, 3, 2)."""
    radii: Tensor
    """At its start and at its end, (N, 2)."""
    colours: Tensor
    """Red, green and blue in 0 to 1, (N, 3)."""
    opacity: Tensor
    """(N,) in 0 to 1."""
    bristles: Tensor
    """How much the bristles show, (N,) in 0 to 1."""
    seeds: Tensor
    """Of the bristles' pattern, (N,), whole numbers."""

    def __getitem__(self, which: object) -> Strokes:  # type: ignore[override]
        """Some of the strokes."""
        return Strokes(*(getattr(self, name)[which] for name in self._fields))


def render(strokes: Strokes, height: int, width: int, canvas: Tensor | None = None) -> Tensor:
    """Lay strokes on a canvas.

    Args:
        height, width: of the picture in pixels.
        canvas: (3, height, width) in 0 to 1; by default white. It is not changed.

    Returns:
        (3, height, width).
    """
    if height < 1 or width < 1:
        raise ConfigError(f"expected a picture of one pixel or more, got {width} x {height}.")
    points, longer = strokes.points.detach(), max(height, width)
    if canvas is None:
        canvas = points.new_ones(3, height, width)
    if not len(points):
        return canvas.clone()
    side = cell_side(strokes, longer)
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    stroke, cell = cut(strokes, height, width, side)
    learning = torch.is_grad_enabled() and any(one.requires_grad for one in (*strokes, canvas))
    with torch.set_grad_enabled(learning):
        cells = _lay(in_cells(canvas, side), strokes, stroke, cell, columns, longer)
    picture = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return picture[:, :height, :width]


class Paint(NamedTuple):
    """What strokes leave at points."""

    coverage: Tensor
    """How much of the paint covers what was there: opacity, edge and bristles together, (N, H, W) in 0 to 1."""
    light: Tensor | None
    """What is added to the colour, since paint is thick: light on the upper left and dark on the lower right edge, and streaks;
    (N, H, W), None without bristles."""


def paint_at(strokes: Strokes, x: Tensor, y: Tensor, pixel: float) -> Paint:
    """What each stroke leaves at points on a grid of its own.

    Args:
        strokes: (N,).
        x, y: coordinates of pixels' middles, (N, W) and (N, H).
        pixel: side of a pixel, in the strokes' units.
    """
    points, radii = strokes.points.detach(), strokes.radii.detach()
    along = nearest(points, x, y)
    for _ in range(2):
        along = deeper(points, radii, along, x, y)
    # depth is at its largest there, so it does not change with the place along the curve: no gradient passes through `along`
    ox, oy, tx, ty = on_curve(strokes.points, along, x, y)
    r0, r1 = strokes.radii[:, :, None, None].unbind(1)
    radius = torch.addcmul(r0, along, r1 - r0)
    depth = radius - torch.addcmul(ox * ox, oy, oy).add_(1e-12).sqrt()
    covered = (depth / pixel + 0.5).clamp(0, 1) * strokes.opacity[:, None, None]
    if not bool(strokes.bristles.any()):
        return Paint(covered, None)
    with torch.no_grad():  # the pattern lies where the stroke lies
        across = (ox * ty - oy * tx) / ((tx * tx + ty * ty + 1e-12).sqrt() * radius.clamp_min(1e-9))
        waves = _waves(strokes, along, across, pixel)
        bare = (0.5 - 0.5 * waves) * (0.35 + 0.65 * along)  # more towards the end, where the brush runs dry
        outward = ((radius - depth) / radius.clamp_min(1e-9)).clamp(max=1)
        edge = outward**5 * (ox + oy) / (radius - depth).clamp_min(1e-9)
        light = strokes.bristles[:, None, None] * (_STREAKS * waves - _EDGE * edge)
    return Paint(covered * (1 - strokes.bristles[:, None, None] * bare), light)


def nearest(points: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The curve's parameter at the point of its chain that is nearest to each pixel, (N, H, W) in 0 to 1."""
    chain = _chain(points)
    best = along = None
    for m in range(SEGMENTS):
        (ax, ay), (dx, dy) = chain[:, m, :, None].unbind(1), (chain[:, m + 1] - chain[:, m])[:, :, None].unbind(1)
        squared = (dx * dx + dy * dy).clamp_min(1e-12)
        rx, ry = x - ax, y - ay
        u = torch.add((rx * (dx / squared))[:, None, :], (ry * (dy / squared))[:, :, None]).clamp_(0, 1)
        ox = torch.addcmul(rx[:, None, :], u, dx[:, None], value=-1)
        oy = torch.addcmul(ry[:, :, None], u, dy[:, None], value=-1)
        distance = ox.mul_(ox).addcmul_(oy, oy)
        u.add_(m).div_(SEGMENTS)
        if best is None or along is None:
            best, along = distance, u
        else:
            along = torch.where(distance < best, u, along)
            best = torch.minimum(best, distance)
    assert along is not None
    return along


def deeper(points: Tensor, radii: Tensor, along: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A step of Newton's method from the parameters `along` to those where r(t) - d(t) is largest.

    With o the way from the curve's point B to the pixel, d = |o|, and r' the radius's change: there o B' + r' d is 0. Where the
    radius falls faster than the curve can go, as in a dot of two radii, the wider end holds the whole stroke: r - d is
    largest there.
    """
    ox, oy, tx, ty = on_curve(points, along, x, y)
    step, steep = newton(points, radii, ox, oy, tx, ty, (ox * ox).addcmul_(oy, oy).sqrt_())
    along = torch.where(steep, step.add_(along), along).clamp_(0, 1)
    growth = radii[:, 1] - radii[:, 0]
    swallowed = (growth != 0) & (growth.abs() >= 2 * points.diff(dim=1).norm(dim=-1).amax(1))  # |B'| is at most that
    if bool(swallowed.any()):
        along[swallowed] = (growth > 0).to(along)[swallowed, None, None]
    return along


def on_curve(points: Tensor, along: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ways from the curves' points B at the parameters `along` to the pixels, and B', by x and y: (N, H, W) each."""
    p0, p1, p2 = points[:, :, :, None, None].unbind(1)  # (N, 2, 1, 1)
    (ax, ay), (bx, by) = (p2 - 2 * p1 + p0).unbind(1), (2 * (p1 - p0)).unbind(1)
    tx, ty = torch.addcmul(bx, along, ax), torch.addcmul(by, along, ay)
    ox = torch.addcmul(x[:, None, :] - p0[:, 0], along, tx, value=-1)
    oy = torch.addcmul(y[:, :, None] - p0[:, 1], along, ty, value=-1)
    return ox, oy, tx.addcmul_(along, ax), ty.addcmul_(along, ay)


def newton(points: Tensor, radii: Tensor, ox: Tensor, oy: Tensor, tx: Tensor, ty: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """The step, and where there is one: elsewhere it is far from the largest depth, or there is none."""
    ax, ay = (points[:, 2] - 2 * points[:, 1] + points[:, 0])[..., None, None].unbind(1)
    growth = radii.diff(dim=1)[:, :, None]
    squared = (tx * tx).addcmul_(ty, ty)
    slope = torch.add(squared, growth * growth, alpha=-1).addcmul_(ox, ax, value=-2).addcmul_(oy, ay, value=-2)
    steep = slope > squared.mul_(0.1)
    return (ox * tx).addcmul_(oy, ty).addcmul_(far, growth).div_(slope.clamp_min_(1e-12)), steep


def _chain(points: Tensor) -> Tensor:
    """Points on curves (N, 3, 2), evenly in their parameter: (N, SEGMENTS + 1, 2)."""
    t = torch.linspace(0, 1, SEGMENTS + 1, dtype=points.dtype, device=points.device)[:, None]
    p0, p1, p2 = points[:, :, None].unbind(1)
    return (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2


def _waves(strokes: Strokes, along: Tensor, across: Tensor, pixel: float) -> Tensor:
    """The pattern of the bristles, in -1 to 1."""
    mean = strokes.radii.mean(1).detach().clamp_min(1e-9)
    total = torch.zeros_like(across)
    for k, frequency in enumerate(_WAVES):
        phase = (strokes.seeds * (0.754877666 + 0.569840291 * k)) % 1.0  # low-discrepancy: neighbours differ
        bend = 0.35 * torch.cos(2 * math.pi * (along + phase[:, None, None]))
        fade = torch.exp(-((2 * frequency * pixel / mean) ** 2))[:, None, None]
        total += fade * torch.cos(2 * math.pi * (frequency * across + bend + 7 * phase[:, None, None]))
    return total / len(_WAVES)


def cell_side(strokes: Strokes, longer: int) -> int:
    """A quarter of the median stroke's box, so that little is computed beside strokes: cells of 64 take three times as long."""
    points, radii = strokes.points.detach(), strokes.radii.detach()
    box = (points.amax(1) - points.amin(1)).mean(-1) + 2 * radii.mean(1)
    typical = float(box.median()) * longer / 4
    return next((side for side in CELLS if side >= typical), CELLS[-1])


def in_cells(canvas: Tensor, side: int) -> Tensor:
    """A copy of a canvas (C, height, width) in cells, row by row: (cells, C, side, side). What is outside is zero."""
    height, width = canvas.shape[1:]
    cells = pad(canvas, (0, -width % side, 0, -height % side)).unflatten(1, (-1, side)).unflatten(3, (-1, side))
    return cells.permute(1, 3, 0, 2, 4).flatten(0, 1).clone(memory_format=torch.contiguous_format)


def cut(strokes: Strokes, height: int, width: int, side: int, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pairs of a stroke and a cell that it touches, or comes within `margin` pixels of, in the order of strokes: two (P,)."""
    rows, columns, longer = math.ceil(height / side), math.ceil(width / side), max(height, width)
    points, widest = strokes.points.detach() * longer, strokes.radii.detach().amax(1) * longer + margin
    low = ((points.amin(1) - widest[:, None]) / side).floor().long()
    high = ((points.amax(1) + widest[:, None]) / side).floor().long()
    limit = torch.tensor([columns - 1, rows - 1], device=points.device)
    low, high = low.clamp_min(0).minimum(limit + 1), high.clamp_min(-1).minimum(limit)
    counts = (high - low + 1).clamp_min(0)  # columns and rows of each box
    total = counts.prod(1)
    stroke = torch.repeat_interleave(torch.arange(len(points), device=points.device), total)
    place = torch.arange(len(stroke), device=points.device) - torch.repeat_interleave(total.cumsum(0) - total, total)
    column = low[stroke, 0] + place % counts[stroke, 0]
    row = low[stroke, 1] + place // counts[stroke, 0]
    chain = _chain(points)[stroke]  # (P, M + 1, 2)
    middle = torch.stack([column, row], 1).to(points.dtype) * side + side / 2
    a, d = chain[:, :-1], chain.diff(dim=1)
    u = (((middle[:, None] - a) * d).sum(-1) / (d * d).sum(-1).clamp_min(1e-12)).clamp(0, 1)
    distance = (middle[:, None] - a - u[..., None] * d).norm(dim=-1).amin(1)
    near = distance <= widest[stroke] + side * math.sqrt(0.5)
    return stroke[near], (row * columns + column)[near]


def layers(cell: Tensor, cells: int) -> tuple[Tensor, list[int]]:
    """An order of pieces, given the cell of each, and how many are in each layer: the first piece of every cell, then every
    second piece, and so on."""
    by_cell = cell.argsort(stable=True)
    counts = torch.bincount(cell, minlength=cells)
    rank = torch.empty_like(cell)
    rank[by_cell] = torch.arange(len(cell), device=cell.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return rank.argsort(stable=True), torch.bincount(rank).tolist()


def _lay(cells: Tensor, strokes: Strokes, stroke: Tensor, cell: Tensor, columns: int, longer: int) -> Tensor:
    """Lay P pieces of strokes over the cells (C, 3, side, side), in order in each cell, all cells at a time."""
    side, pixel = cells.shape[-1], 1 / longer
    order, counts = layers(cell, len(cells))
    middles = (torch.arange(side, device=cells.device, dtype=cells.dtype) + 0.5) * pixel
    learning = torch.is_grad_enabled()
    at_once = len(order) if learning else max(1, PIXELS_AT_ONCE // side**2)
    start = ready = first = 0
    paint = Paint(cells.new_empty(0), None)
    for count in counts:
        end = start + count
        while start < end:
            if start == ready:
                chunk = order[ready : ready + at_once]
                x = (cell[chunk] % columns)[:, None] * (side * pixel) + middles
                y = (cell[chunk] // columns)[:, None] * (side * pixel) + middles
                paint, first, ready = paint_at(strokes[stroke[chunk]], x, y, pixel), ready, ready + len(chunk)
            stop = min(end, ready)
            pieces = order[start:stop]
            alpha = paint.coverage[start - first : stop - first, None]
            before = cells[cell[pieces]]
            colour = strokes.colours[stroke[pieces], :, None, None]
            if paint.light is not None:
                colour = (colour + paint.light[start - first : stop - first, None]).clamp(0, 1)
            after = before + alpha * (colour - before)
            cells = cells.index_copy(0, cell[pieces], after) if learning else cells.index_copy_(0, cell[pieces], after)
            start = stop
    return cells
