"""Moving strokes by gradient descent through the renderer, so that what they leave comes closer to the picture."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unrolled.strokes import Painting, Strokes, render
from unrolled.strokes.gradient import SquaredError
from unrolled.tasks.painting.pictures import SEEN
from unrolled.tasks.painting.windows import resized

_RADII, _COLOURS, _OPACITY = 0.03, 0.01, 0.03
"""Learning rates of Adam, of the logarithm of radii and of the logit of opacity; they fall to zero."""
_BETAS = (0.9, 0.999)
"""Adam's."""
_CUT_EVERY = 8
"""Steps after which strokes are cut into cells anew."""
_ALONG, _FEWEST = 6, 128
"""Pixels along the side of a stroke's share of the canvas, and the fewest of the whole longer side."""
TOGETHER = 10_000
"""Strokes that are moved at a time, which takes 1.2 GB."""


@torch.no_grad()
def moved(
    strokes: Strokes,
    canvas: Tensor,
    target: Tensor,
    *,
    steps: int,
    pixels: float,
    told: Callable[[int, int], None] | None = None,
) -> Strokes:
    """The same strokes, in the same order, where they bring a canvas closer to a target; judged without bristles.

    Args:
        canvas, target: (3, height, width).
        steps: of Adam.
        pixels: of the canvas, by which a point moves in the first step.
        told: called with how many steps are done, and of how many.
    """
    if not len(strokes.opacity):
        return strokes
    points, radii, colours, opacity = _parted(
        values := torch.cat(
            [
                strokes.points.flatten(1),
                strokes.radii.log(),
                strokes.colours,
                strokes.opacity.clamp(0.02, 0.98).logit()[:, None],
            ],
            1,
        )
    )
    rate = values.new_tensor([*6 * [pixels / max(target.shape[1:])], *2 * [_RADII], *3 * [_COLOURS], _OPACITY])
    # Adam, for which torch.optim would import torch's compiler: a second, where a painting of 50 strokes takes a sixth of one.
    mean, square = torch.zeros_like(values), torch.zeros_like(values)
    error = SquaredError(strokes, canvas, target)
    for step in range(steps):
        now = strokes._replace(points=points, radii=radii.exp(), colours=colours, opacity=opacity.sigmoid())
        if step and step % _CUT_EVERY == 0:
            error = SquaredError(now, canvas, target)
        of = error.gradient(now)
        slope = torch.cat(
            [
                of.points.flatten(1),
                of.radii * now.radii,
                of.colours,
                (of.opacity * now.opacity * (1 - now.opacity))[:, None],
            ],
            1,
        )
        mean.lerp_(slope, 1 - _BETAS[0])
        square.lerp_(slope * slope, 1 - _BETAS[1])
        share = (1 - step / steps) / (1 - _BETAS[0] ** (step + 1)) * (1 - _BETAS[1] ** (step + 1)) ** 0.5
        values.addcdiv_(mean * rate, square.sqrt().add_(1e-9), value=-share)
        colours.clamp_(0, 1)
        if told:
            told(step + 1, steps)
    return strokes._replace(points=points, radii=radii.exp(), colours=colours.contiguous(), opacity=opacity.sigmoid())


def _parted(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return values[:, :6].unflatten(1, (3, 2)), values[:, 6:8], values[:, 8:11], values[:, 11]


def optimise(
    painting: Painting,
    picture: Tensor,
    *,
    steps: int,
    longer: int | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Painting:
    """A whole painting, with its strokes, or the last `TOGETHER` of them, moved so that it comes closer to the picture.

    Args:
        picture: (3, height, width) in 0 to 1.
        steps: of Adam.
        longer: pixels of the longer side at which the canvas is compared with the picture: where there are too few, strokes are
            fitted to what lies between them; by default 36 for each stroke of a square, and 128 to 768 on the longer side.
        told: called with how many steps are done, and of how many.
    """
    if longer is None:
        longer = min(SEEN, max(_FEWEST, round(_ALONG * math.sqrt(len(painting.strokes.opacity)))))
    height, width = painting.size(longer)
    target = resized(picture[None], height, width)[0]
    first = max(0, len(painting.strokes.opacity) - TOGETHER)
    before = painting.strokes[:first]
    before = before._replace(bristles=torch.zeros_like(before.bristles))
    canvas = render(before, height, width, painting.ground[:, None, None].expand(3, height, width))
    last = moved(painting.strokes[first:], canvas, target, steps=steps, pixels=0.4, told=told)
    return painting._replace(
        strokes=Strokes(*(torch.cat([one[:first], other]) for one, other in zip(painting.strokes, last, strict=True)))
    )
