"""Moving strokes by gradient descent through the renderer, so that what they leave comes closer to the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unrolled.strokes import Painting, Strokes, render
from unrolled.tasks.painting.windows import resized

_RADII, _COLOURS, _OPACITY = 0.03, 0.01, 0.03
"""Learning rates of Adam, of the logarithm of radii and of the logit of opacity; they fall to zero."""


@torch.enable_grad()
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
    height, width = target.shape[1:]
    points, radii = strokes.points.clone().requires_grad_(), strokes.radii.log().requires_grad_()
    colours, opacity = strokes.colours.clone().requires_grad_(), strokes.opacity.clamp(0.02, 0.98).logit().requires_grad_()
    bare = torch.zeros_like(strokes.bristles)
    rates = {points: pixels / max(height, width), radii: _RADII, colours: _COLOURS, opacity: _OPACITY}
    adam = torch.optim.Adam([{"params": [values], "lr": rate} for values, rate in rates.items()])
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
    for step in range(1, steps + 1):
        now = Strokes(points, radii.exp(), colours, opacity.sigmoid(), bare, strokes.seeds)
        (render(now, height, width, canvas) - target).square().sum().backward()
        adam.step()
        adam.zero_grad()
        schedule.step()
        with torch.no_grad():
            colours.clamp_(0, 1)
        if told:
            told(step, steps)
    now = Strokes(points, radii.exp(), colours, opacity.sigmoid(), strokes.bristles, strokes.seeds)
    return Strokes(*(one.detach() for one in now))


def optimise(
    painting: Painting, picture: Tensor, *, steps: int, longer: int = 128, told: Callable[[int, int], None] | None = None
) -> Painting:
    """A whole painting, with the strokes moved so that it comes closer to the picture.

    Args:
        picture: (3, height, width) in 0 to 1.
        steps: of Adam.
        longer: pixels of the longer side at which the canvas is compared with the picture.
        told: called with how many steps are done, and of how many.
    """
    height, width = painting.size(longer)
    target = resized(picture[None], height, width)[0]
    canvas = painting.ground[:, None, None].expand(3, height, width)
    return painting._replace(strokes=moved(painting.strokes, canvas, target, steps=steps, pixels=0.4, told=told))
