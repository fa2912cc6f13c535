"""Two axes: a stacked network is deep in time and in layers, and a gradient goes back along both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from unrolled.inspection.why.networks import fresh, norms_from_the_end, random


def measure(layers: int = 4, steps: int = 40, hidden_size: int = 48, seed: int = 0) -> dict[str, Any]:
    """||dL/dh_t|| at every step of every layer, for a loss that reads the last step of the top layer.

    Keys: `rnn` and `lstm`, whose forget bias is 3, each a list of layers, the lowest first, each a list of steps.
    """
    x = torch.randn(steps, 1, hidden_size, generator=random(seed))
    options: dict[str, dict[str, float]] = {"rnn": {}, "lstm": {"forget_bias": 3.0}}
    made = {cell: fresh(cell, hidden_size, hidden_size, layers, seed=seed, **options[cell]) for cell in options}
    return {cell: norms_from_the_end(layer, x)[:, 0].tolist() for cell, layer in made.items()}


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    plots = figure.subplots(1, 2, sharey=True)
    for axes, cell in zip(plots, ("rnn", "lstm"), strict=True):
        shown = np.log10(np.maximum(np.array(numbers[cell]), 1e-12))
        layers, steps = shown.shape
        sides = (0.5, steps + 0.5, 0.5, layers + 0.5)
        axes.imshow(shown, aspect="auto", origin="lower", cmap="cividis", vmin=-8, vmax=0, extent=sides)
        title = {"rnn": "Vanilla RNN", "lstm": "LSTM, forget bias 3"}[cell]
        axes.set(title=title, xlabel="step", yticks=range(1, layers + 1))
        axes.annotate("L", (steps + 0.5, layers), (steps + 2, layers), va="center", annotation_clip=False)
    plots[0].set_ylabel("layer")
    figure.colorbar(plots[0].images[0], ax=list(plots), label="log10 of ||dL/dh||")
    return figure
