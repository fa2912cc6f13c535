"""The gradient of a painting's squared error, by hand, for descending on the same strokes again and again.

With `render` and autograd it is the same, and takes several times as long: here strokes are cut into the cells that they touch
only now and then, and the nearest point of a curve to each pixel follows the curve by one step of Newton's method each time.

A canvas c becomes c + a (colour - c) where a stroke covers it by a = opacity * clamp(depth + 1/2, 0, 1). With g the gradient of
the error with respect to the canvas after the stroke,

    d colour = sum over pixels of g a        d a = g (colour - c)        g before the stroke = g (1 - a)
    d depth = d a * opacity on the edge, else 0

and depth = r(t) - |pixel - B(t)|, at its largest in t, passes it to the radii by 1 - t and t, and to the points of the curve
along the way outward by Bernstein's (1 - t)^2, 2 t (1 - t), t^2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.strokes.rendering import Strokes, cell_side, cut, deeper, in_cells, layers, nearest, newton, on_curve

_MARGIN = 1.5
"""Pixels beyond a stroke, to which it may move before it is cut anew."""


class Gradient(NamedTuple):
    """With respect to what a stroke is, as in `Strokes`."""

    points: Tensor
    radii: Tensor
    colours: Tensor
    opacity: Tensor


class SquaredError:
    """The sum of squares of what N strokes without bristles leave between a canvas and a target, for strokes near to these.

    Args:
        strokes: where they are cut.
        canvas, target: (3, height, width).
    """

    def __init__(self, strokes: Strokes, canvas: Tensor, target: Tensor) -> None:
        height, width = target.shape[1:]
        self._longer = max(height, width)
        side = cell_side(strokes, self._longer)
        self._canvas, self._target = (in_cells(one, side).flatten(2) for one in (canvas, target))  # (C, 3, side * side)
        self._inside = in_cells(torch.ones_like(target[:1]), side).flatten(2)
        stroke, cell = cut(strokes, height, width, side, _MARGIN)
        order, counts = layers(cell, len(self._canvas))
        self._stroke, self._cell, self._counts, self._side = stroke[order], cell[order], counts, side
        columns = -(-width // side)
        self._corner = torch.stack([self._cell % columns, self._cell // columns], 1) * side  # (P, 2)
        self._along: Tensor | None = None

    @torch.no_grad()
    def gradient(self, strokes: Strokes) -> Gradient:
        """At these strokes."""
        side, stroke = self._side, self._stroke
        points = strokes.points[stroke] * self._longer - self._corner[:, None]  # (P, 3, 2), in pixels of each cell
        radii = strokes.radii[stroke] * self._longer
        middles = torch.arange(side, dtype=points.dtype, device=points.device) + 0.5
        grid = middles.expand(len(points), side)
        t = self._along
        if t is None:
            t = nearest(points, grid, grid)
            for _ in range(2):
                t = deeper(points, radii, t, grid, grid)
        ox, oy, tx, ty = on_curve(points, t, grid, grid)
        far = (ox * ox).addcmul_(oy, oy).add_(1e-12 * self._longer**2).sqrt_()
        raw = (
            torch.addcmul(radii[:, :1, None] + 0.5, t, radii.diff(dim=1)[..., None]).sub_(far).clamp_(0, 1).flatten(1)
        )  # (P, side * side)
        alpha = raw * strokes.opacity[stroke, None]

        after, colours = self._canvas.clone(), strokes.colours[stroke, :, None]
        missing = torch.empty(len(stroke), 3, side * side, dtype=alpha.dtype, device=alpha.device)  # colour - canvas
        cells, covered = self._cell.split(self._counts), alpha[:, None].split(self._counts)
        for cell, cover, colour, lacks in zip(
            cells, covered, colours.split(self._counts), missing.split(self._counts), strict=True
        ):
            before = after.index_select(0, cell)
            torch.sub(colour, before, out=lacks)
            after.index_copy_(0, cell, before.addcmul_(cover, lacks))
        g = after.sub_(self._target).mul_(self._inside).mul_(2)
        gradients = torch.empty_like(missing)
        for cell, cover, own in zip(reversed(cells), reversed(covered), reversed(gradients.split(self._counts)), strict=True):
            torch.index_select(g, 0, cell, out=own)
            g.index_copy_(0, cell, torch.addcmul(own, own, cover, value=-1))
        of_colour = torch.bmm(gradients, alpha[:, :, None])[:, :, 0]
        of_alpha = gradients.mul_(missing).sum(1)
        of_opacity = (of_alpha * raw).sum(1, keepdim=True)
        of_depth = of_alpha.mul_((raw > 0) & (raw < 1)).mul_(strokes.opacity[stroke, None])

        flat = t.flatten(1)
        outward = of_depth / far.flatten(1)
        ways = torch.stack([outward * ox.flatten(1), outward * oy.flatten(1), of_depth], 1)  # (P, 3, side * side)
        powers = torch.stack([torch.ones_like(flat), flat, flat * flat], 1)
        sums = torch.bmm(powers, ways.transpose(1, 2))  # of t^0, t^1, t^2 times each: (P, 3, 3)
        one, first, second = sums.unbind(1)
        per_piece = torch.cat(
            [(one - 2 * first + second)[:, :2], 2 * (first - second)[:, :2], second[:, :2], (one - first)[:, 2:], first[:, 2:]],
            1,
        )
        per_piece = torch.cat([per_piece * self._longer, of_colour, of_opacity], 1)
        total = per_piece.new_zeros(len(strokes.opacity), per_piece.shape[1]).index_add_(0, stroke, per_piece)

        step, steep = newton(points, radii, ox, oy, tx, ty, far)
        self._along = torch.where(steep, step.add_(t), t).clamp_(0, 1)
        return Gradient(total[:, :6].unflatten(1, (3, 2)), total[:, 6:8], total[:, 8:11], total[:, 11])
