"""A painter: a convolutional network that looks, a recurrent cell that remembers, and a hand that lays strokes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unrolled.cell_layers import GRUCell
from unrolled.strokes import Strokes, paint_at
from unrolled.tasks.painting.windows import WINDOW

_CHANNELS = (32, 48, 64, 96)
_NUMBERS = 10
"""Of a stroke: middle, direction and bend (two each), length, two radii, opacity. Its colour is computed."""


class Laid(NamedTuple):
    """Strokes of windows, in units of a window, and what they did."""

    points: Tensor
    """(N, K, 3, 2)"""
    radii: Tensor
    """(N, K, 2)"""
    colours: Tensor
    """(N, K, 3)"""
    opacity: Tensor
    """(N, K)"""
    errors: Tensor
    """The mean squared error before, and after each stroke: (N, K + 1)."""


class Painter(nn.Module):
    """Looks at windows on a picture and on its canvas, and says the next strokes of each.

    Args:
        hidden_size: width of the state.
        strokes: K, how many a look.
    """

    def __init__(self, hidden_size: int, strokes: int) -> None:
        super().__init__()
        self.hidden_size, self.strokes = hidden_size, strokes
        layers: list[nn.Module] = []
        for number, (before, channels) in enumerate(zip((9, *_CHANNELS), _CHANNELS, strict=False)):
            layers += [nn.Conv2d(before, channels, 3, stride=1 if number == 0 else 2, padding=1), nn.GELU()]
        places = (WINDOW // 2 ** (len(_CHANNELS) - 1)) ** 2
        self.look = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(_CHANNELS[-1] * places, hidden_size), nn.LayerNorm(hidden_size), nn.GELU()
        )
        self.cell = GRUCell(hidden_size, hidden_size)
        self.hand = nn.Linear(2 * hidden_size, strokes * _NUMBERS)
        # Strokes begin all over the window, in all directions. Not normal_(), for which torch imports its compiler where a
        # run's blueprint is made: 1.4 s.
        with torch.no_grad():
            self.hand.weight.uniform_(-0.035, 0.035)
            bias = self.hand.bias.view(strokes, _NUMBERS)
            bias.uniform_(-1.7, 1.7)

    def forward(self, target: Tensor, canvas: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows (N, 3, 32, 32) in 0 to 1, states (N, H) -> points (N, K, 3, 2), radii (N, K, 2), opacity (N, K), states."""
        seen = self.look(torch.cat([target - 0.5, canvas - 0.5, 4 * (target - canvas)], 1))
        state = self.cell(seen, state)
        said = self.hand(torch.cat([state, seen], 1)).unflatten(1, (self.strokes, _NUMBERS))
        middle = 0.5 + 0.45 * said[..., 0:2].tanh()
        half = 0.06 + 0.34 * said[..., 6:7].sigmoid()  # of its length
        along = half * normalize(said[..., 2:4], dim=-1, eps=1e-3)
        bend = half * 0.7 * said[..., 4:6].tanh()
        points = torch.stack([middle - along, middle + bend, middle + along], 2)
        radii = 0.015 + half * (0.1 + 0.5 * said[..., 7:9].sigmoid())  # strokes are longer than they are wide
        opacity = 0.75 + 0.25 * said[..., 9].sigmoid()
        return points, radii, opacity, state


def lay(points: Tensor, radii: Tensor, opacity: Tensor, target: Tensor, canvas: Tensor, inside: Tensor | float = 1.0) -> Laid:
    """Lay the strokes of each window one after the other, each in the colour that brings its canvas closest to the target.

    `inside` (N, 1, 32, 32), 1 or 0, says which pixels count.
    """
    count = opacity.numel()
    none = opacity.new_zeros(count)
    strokes = Strokes(points.flatten(0, 1), radii.flatten(0, 1), points.new_zeros(count, 3), opacity.flatten(), none, none)
    middles = ((torch.arange(WINDOW, device=points.device) + 0.5) / WINDOW).to(points.dtype).expand(count, WINDOW)
    alphas = paint_at(strokes, middles, middles, 1 / WINDOW).coverage.unflatten(0, opacity.shape)
    colours, errors = [], [((target - canvas) * inside).square().mean((1, 2, 3))]
    for alpha in alphas[:, :, None].unbind(1):
        colour = best_colour(alpha * inside, target, canvas)
        canvas = canvas + alpha * (colour[..., None, None] - canvas)
        colours.append(colour)
        errors.append(((target - canvas) * inside).square().mean((1, 2, 3)))
    return Laid(points, radii, torch.stack(colours, 1), opacity, torch.stack(errors, 1))


def best_colour(alpha: Tensor, target: Tensor, canvas: Tensor) -> Tensor:
    """The colour c of least squares, argmin |canvas + alpha (c - canvas) - target|^2, held within 0 to 1: (N, 3).

    Args:
        alpha: coverage, (N, 1, height, width).
        target, canvas: (N, 3, height, width).
    """
    wanted = (alpha * (target - canvas) + alpha * alpha * canvas).sum((-1, -2))
    return (wanted / (alpha * alpha).sum((-1, -2)).clamp_min(1e-3)).clamp(0, 1)
