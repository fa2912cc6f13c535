"""Training: pictures are painted coarse to fine, and every stroke is judged by the canvas that it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from unrolled.strokes import Strokes, render
from unrolled.task import Step
from unrolled.tasks.painting.model import Laid, Painter, lay
from unrolled.tasks.painting.windows import CORE, WINDOW, Grid, finer, resized

_LAST = 0.7
"""Share of the loss that is the error after the last stroke of a look; the rest is the mean over its strokes, so that each has
to help."""
_FLOOR = 1e-3
"""Mean squared error of a window below which there is little left to do."""
_SEEN = (0.5 / 255) ** 2 / WINDOW**2
"""Mean squared error of a window that is wrong in one pixel, by half of what 8 bits tell: less is no gain."""


def training_loss(model: Painter, batch: dict[str, Tensor], levels: int, looks: int) -> Step:
    """The error that strokes leave in their windows, as a share of what was there before them, averaged over windows and looks.

    The canvas that a look begins with is what the looks before it have painted, strokes of all windows together; no gradient
    goes through it from look to look, but through the strokes of one look, and through the states of all of them.
    """
    target = batch["pictures"]
    canvas = batch["grounds"][:, :, None, None].expand_as(target).contiguous()
    states = target.new_zeros(len(target), model.hidden_size, 2, 2)
    losses, errors = [], []
    for level in range(levels):
        side = CORE * 2**level
        wanted = resized(target, side, side)
        if level:
            states = finer(states, side, side)
        for look in range(looks):
            grid = Grid.of(side, side, moved=look % 2 == 1)
            windows = grid.windows(wanted)
            now = grid.windows(resized(canvas, side, side))
            points, radii, opacity, state = model(windows, now, grid.read(states))
            states = grid.write(state)
            laid = lay(points, radii, opacity, windows, now)
            before, after = laid.errors[:, 0].detach(), laid.errors[:, 1:]
            losses.append(((_LAST * after[:, -1] + (1 - _LAST) * after.mean(1)) / (before + _FLOOR)).mean())
            canvas = _painted(canvas, laid, grid, batch["keep"][:, level * looks + look])
            errors.append((target - canvas).square().mean())
    return Step(torch.stack(losses).mean(), len(target), report={"squared_error": float(errors[-1])})


@torch.no_grad()
def _painted(canvas: Tensor, laid: Laid, grid: Grid, keep: Tensor) -> Tensor:
    """The canvases (B, 3, height, width) after the strokes that help, of each picture at most the `keep` (B,) share."""
    gains = (laid.errors[:, :-1] - laid.errors[:, 1:]).unflatten(0, (len(canvas), -1))  # (B, N, K)
    after, (height, width) = [], canvas.shape[2:]
    for number, gain in enumerate(gains):
        own = slice(number * len(gain), (number + 1) * len(gain))
        strokes = chosen(Laid(*(one[own] for one in laid)), grid, max(1, round(float(keep[number]) * gain.numel())))
        after.append(render(strokes, height, width, canvas[number]))
    return torch.stack(after)


def chosen(laid: Laid, grid: Grid, most: int, which: Tensor | None = None) -> Strokes:
    """Of the strokes of all windows of one picture, or of those at `which`, the `most` that help most, if they help; in the
    picture's units.

    The first ones of every window come first, then the second ones, so that neighbours mix.
    """
    gains = (laid.errors[:, :-1] - laid.errors[:, 1:]).flatten()
    best = gains.topk(min(most, int((gains > _SEEN).sum()))).indices
    best = best[(best % laid.opacity.shape[1]).argsort(stable=True)]
    points, radii = grid.in_picture(laid.points, laid.radii, which)
    none = gains.new_zeros(len(best))
    return Strokes(
        points.flatten(0, 1)[best], radii.flatten(0, 1)[best], laid.colours.flatten(0, 1)[best], laid.opacity.flatten()[best],
        bristles=none, seeds=none.long(),
    )  # fmt: skip
