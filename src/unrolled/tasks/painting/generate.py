"""Painting a picture: coarse to fine, the strokes that help most, until the budget is spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unrolled.errors import ConfigError
from unrolled.strokes import Painting, Strokes, render
from unrolled.strokes.painting import MOST
from unrolled.tasks.painting.loss import chosen
from unrolled.tasks.painting.model import Painter, lay
from unrolled.tasks.painting.optimise import moved
from unrolled.tasks.painting.windows import CORE, Grid, finer, resized

Style = Literal["fine", "broad", "flat"]


class _Manner(NamedTuple):
    """What a style is."""

    strokes_a_window: float
    """A level is begun when there are so many strokes for each of its windows: the more, the broader they stay."""
    bristles: float
    """How much the bristles show, 0 to 1; strokes are chosen without them."""


STYLES: dict[Style, _Manner] = {"fine": _Manner(3.0, 0.4), "broad": _Manner(14.0, 0.7), "flat": _Manner(3.0, 0.0)}
FINEST = 5
"""Levels after the first: 32 cores, 768 pixels, along the longer side."""
LOOKS = 4
"""In how many looks the strokes of a level are spent, where so many of each help."""
LEAST = 8
"""Strokes of a look, if the level has so many left: a look costs time however few they are."""
MOVES = 8
"""Steps of gradient descent on the strokes of a look, which windows chose each for itself."""
_BY = 0.3
"""Pixels of the level by which the first of them moves a point."""
_ENOUGH = 40
"""Looks at a level, after which what is left goes to the next."""


@torch.no_grad()
def paint(
    model: Painter,
    picture: Tensor,
    strokes: int,
    *,
    style: Style = "fine",
    told: Callable[[Painting], None] | None = None,
) -> Painting:
    """Paint a picture with so many strokes, or with fewer where no more of them help.

    Args:
        picture: (3, height, width) in 0 to 1.
        strokes: the budget, 1 to a million.
        style: fine, broad strokes, or flat ones without bristles.
        told: called after each look with the strokes that it laid, and what they were laid on.

    Raises:
        ConfigError: another budget or style.
    """
    if not 1 <= strokes <= MOST:
        raise ConfigError(f"expected a budget of 1 to {MOST:,} strokes, got {strokes:,}.")
    if style not in STYLES:
        raise ConfigError(f"expected a style of {', '.join(STYLES)}, got {style!r}.")
    manner = STYLES[style]
    height, width = picture.shape[1:]
    longer = max(height, width)
    levels = _levels(strokes / manner.strokes_a_window, height * width / longer**2)
    sizes = [tuple(max(1, round(side * CORE * 2**level / longer)) for side in (height, width)) for level in range(levels)]
    ground = picture.mean((1, 2))
    canvases = [ground[:, None, None].expand(3, *size).contiguous() for size in sizes]
    states = picture.new_zeros(1, model.hidden_size, *(2 * side for side in Grid.of(*sizes[0], moved=False)[:2]))
    laid, left = [], strokes
    for level, size in enumerate(sizes):
        wanted = resized(picture[None], *size)
        if level:
            states = finer(states, *size)
        rest = sum(4**each for each in range(level, levels))
        share, look, idle = max(1, round(left * 4**level / rest)) if left else 0, 0, 0
        while share and idle < 2 and look < _ENOUGH:
            grid = Grid.of(*size, moved=look % 2 == 1)
            windows, now = grid.windows(wanted), grid.windows(canvases[level][None])
            points, radii, opacity, state = model(windows, now, grid.read(states))
            states = grid.write(state)
            several = chosen(
                lay(points, radii, opacity, windows, now, grid.inside(*size).to(now)),
                grid,
                min(share, max(LEAST, -(-share // max(1, LOOKS - look)))),
            )
            count = len(several.opacity)
            look, idle = look + 1, 0 if count else idle + 1
            if not count:
                continue
            several = moved(several, canvases[level], wanted[0], steps=MOVES, pixels=_BY)
            laid.append(_finished(several, strokes - left, manner))
            share, left = share - count, left - count
            for each in range(level, levels):
                rows, columns = sizes[each]
                canvases[each] = render(several, rows, columns, canvases[each])
            if told:
                told(Painting(laid[-1], ground, height / width))
    return Painting(_together(laid, ground), ground, height / width)


def _levels(windows: float, filled: float) -> int:
    """How many levels it takes to so many windows; `filled` is the share of a square that the picture fills."""
    return 1 + sum(filled * 4**level <= windows for level in range(1, FINEST + 1))


def _finished(strokes: Strokes, before: int, manner: _Manner) -> Strokes:
    """With bristles, whose pattern is another in each stroke of a painting."""
    count = len(strokes.opacity)
    seeds = torch.arange(before, before + count, device=strokes.opacity.device)
    return strokes._replace(bristles=torch.full_like(strokes.opacity, manner.bristles), seeds=seeds)


def _together(several: list[Strokes], like: Tensor) -> Strokes:
    if not several:
        none = like.new_zeros(0)
        return Strokes(none.view(0, 3, 2), none.view(0, 2), none.view(0, 3), none, none, none.long())
    return Strokes(*(torch.cat(each) for each in zip(*several, strict=True)))
