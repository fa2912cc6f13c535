"""Repeated multiplication: a gradient that goes back k steps has met k matrices, and shrinks or grows as a power."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from unrolled.inspection.why.networks import norms_from_the_end, of_radius, random

FACTORS = (0.5, 0.9, 1.0, 1.1)
RADII = (0.5, 0.9, 1.0, 1.1, 1.5)
_TOP = 100.0
"""Powers above this are not drawn: the legend is there."""
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")


def measure(steps: int = 60, hidden_size: int = 64, seed: int = 0) -> dict[str, Any]:
    """||dL/dh_t|| of vanilla RNNs whose W_hh has this or that spectral radius, for a loss that reads the last step.

    Inputs are small (deviation 0.1), so that tanh is near 0 where its slope is near 1. Keys: the radius as text, and in each
    `norms`, by distance from the last step, where it is 1; `factor`, the mean factor a step over all the way.
    """
    x = 0.1 * torch.randn(steps, 1, 8, generator=random(seed))
    found = {}
    for radius in RADII:
        norms = norms_from_the_end(of_radius(8, hidden_size, radius, seed=seed), x)[0, 0].flip(0)
        found[str(radius)] = {"norms": norms.tolist(), "factor": float(norms[-1] ** (1 / (steps - 1)))}
    return found


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    distance = range(len(next(iter(numbers.values()))["norms"]))
    for factor, colour in zip(FACTORS, _COLOURS, strict=False):
        left.plot(distance, [factor**k for k in distance], color=colour, label=f"{factor}")
    left.set(title="A number, multiplied again and again", ylabel="size", xlabel="times")
    for (radius, one), colour in zip(numbers.items(), _COLOURS, strict=True):
        right.plot(distance, one["norms"], color=colour, label=f"{radius}  (a step: {one['factor']:.2f})")
        powers = [float(radius) ** k for k in distance if float(radius) ** k < _TOP]
        right.plot(powers, color=colour, ls=":", lw=1)
    right.set(title="A gradient, through a matrix (dotted: a number)", xlabel="steps back from the loss")
    for axes, title in ((left, "factor"), (right, "spectral radius of W_hh")):
        axes.set(yscale="log", ylim=(1e-8, 1e6))
        axes.legend(frameon=False, title=title, fontsize=8, title_fontsize=8, loc="upper left", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
