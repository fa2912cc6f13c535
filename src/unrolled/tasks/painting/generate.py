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
from unrolled.tasks.painting.optimise import TOGETHER, moved, optimise
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
OFFERED = 2
"""Strokes that are offered for each that a look can lay: it looks at the windows where most is missing, not at all of them."""
LEVEL_MOVES, LAST_MOVES = 4, 24
"""Steps of gradient descent on the strokes of a level, which windows chose each for itself, and at the end on the whole."""
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
    refined: Callable[[int, int], None] | None = None,
) -> Painting:
    """Paint a picture with so many strokes, or with fewer where no more of them help.

    Args:
        picture: (3, height, width) in 0 to 1.
        strokes: the budget, 1 to a million.
        style: fine, broad strokes, or flat ones without bristles.
        told: called after each look with the strokes that it laid, which are moved afterwards, and what they were laid on.
        refined: called with how many of the last steps of descent, on the whole painting, are done, and of how many.

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
    scales = [CORE * 2**level / longer for level in range(levels)]
    sizes = [(max(1, round(height * by)), max(1, round(width * by))) for by in scales]
    ground = picture.mean((1, 2))
    states = picture.new_zeros(1, model.hidden_size, *(2 * side for side in Grid.of(*sizes[0], moved=False)[:2]))
    laid, left = _together([], ground), strokes
    for level, size in enumerate(sizes):
        wanted = resized(picture[None], *size)
        begun = canvas = render(_bare(laid), *size, ground[:, None, None].expand(3, *size))
        if level:
            states = finer(states, *size)
        rest, here = sum(4**each for each in range(level, levels)), []
        share, look, idle = max(1, round(left * 4**level / rest)) if left else 0, 0, 0
        while share and idle < 2 and look < _ENOUGH:
            grid = Grid.of(*size, moved=look % 2 == 1)
            most = min(share, max(LEAST, -(-share // max(1, LOOKS - look))))
            several, states = _look(model, grid, wanted, canvas, states, most)
            count = len(several.opacity)
            look, idle = look + 1, 0 if count else idle + 1
            if not count:
                continue
            here.append(_finished(several, strokes - left, manner))
            share, left = share - count, left - count
            canvas = render(several, *size, canvas)
            if told:
                told(Painting(here[-1], ground, height / width))
        for start in range(0, len((both := _together(here, ground)).opacity), TOGETHER):
            part = moved(both[start : start + TOGETHER], begun, wanted[0], steps=LEVEL_MOVES, pixels=_BY)
            begun = render(_bare(part), *size, begun)
            laid = _together([laid, part], ground)
    return optimise(Painting(laid, ground, height / width), picture, steps=LAST_MOVES, told=refined)


def _look(model: Painter, grid: Grid, wanted: Tensor, canvas: Tensor, states: Tensor, most: int) -> tuple[Strokes, Tensor]:
    """The strokes that a look at `wanted` (1, 3, height, width) lays, at most so many, and the map of states after it."""
    windows, now, before = grid.windows(wanted), grid.windows(canvas[None]), grid.read(states)
    inside = grid.inside(*canvas.shape[1:]).to(now)
    missing = ((windows - now) * inside).square().sum((1, 2, 3))
    which = missing.topk(min(len(missing), -(-OFFERED * most // model.strokes))).indices.sort().values
    points, radii, opacity, after = model(windows[which], now[which], before[which])
    laid = lay(points, radii, opacity, windows[which], now[which], inside[which])
    return chosen(laid, grid, most, which), grid.write(before.index_copy(0, which, after))


def _levels(windows: float, filled: float) -> int:
    """How many levels it takes to so many windows; `filled` is the share of a square that the picture fills."""
    return 1 + sum(filled * 4**level <= windows for level in range(1, FINEST + 1))


def _bare(strokes: Strokes) -> Strokes:
    """Without bristles, as they are judged."""
    return strokes._replace(bristles=torch.zeros_like(strokes.bristles))


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
