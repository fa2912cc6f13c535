"""The uninterrupted path: c_t of an LSTM over time, as the identity of a residual network over depth."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from unrolled.inspection.why.networks import fresh, norms_from_the_end, of_radius, random

FORGET_BIASES = (0.0, 1.0, 3.0)
_COLOURS = ("#56B4E9", "#0072B2", "#009E73")


def measure(steps: int = 60, hidden_size: int = 64, seed: int = 0) -> dict[str, Any]:
    """How much of a gradient is left, by distance from where it begins, of layers over time and of networks over depth.

    Keys: `rnn`, ||dL/dh_t|| of a vanilla RNN of spectral radius 0.9, and `lstm`, by the bias of its forget gate ||dL/dc_t||,
    both for a loss at the last step, as shares of the last; `gates`, by that bias sigmoid(bias)^k, what the forget gates alone
    leave; `plain`, `residual` and `divided`, ||dL/dx|| at every depth of x <- tanh(W x), x <- x + tanh(W x), and
    x <- x + tanh(W x) / depth.
    """
    x = 0.5 * torch.randn(steps, 1, 8, generator=random(seed))
    rnn = norms_from_the_end(of_radius(8, hidden_size, 0.9, seed=seed), x)[0, 0]
    lstm = {}
    for bias in FORGET_BIASES:
        layer = fresh("lstm", 8, hidden_size, seed=seed, forget_bias=bias)
        lstm[str(bias)] = _shares(norms_from_the_end(layer, x)[0, 1])
    gates = {str(bias): [torch.tensor(bias).sigmoid().item() ** k for k in range(steps)] for bias in FORGET_BIASES}
    depths = {name: _over_depth(steps, hidden_size, name, seed) for name in ("plain", "residual", "divided")}
    return {"rnn": _shares(rnn), "lstm": lstm, "gates": gates, **depths}


def _shares(norms: Tensor) -> list[float]:
    return (norms / norms[-1]).flip(0).tolist()


def _over_depth(depth: int, width: int, kind: str, seed: int) -> list[float]:
    generator = random(seed)
    weights = [0.9 * torch.randn(width, width, generator=generator) / width**0.5 for _ in range(depth - 1)]
    x = torch.randn(width, generator=generator).requires_grad_()
    places = [x]
    for own in weights:
        change = torch.tanh(own @ places[-1])
        places.append({"plain": change, "residual": places[-1] + change, "divided": places[-1] + change / depth}[kind])
    direction = torch.randn(width, generator=generator)
    gradients = torch.autograd.grad(places[-1] @ direction / direction.norm(), places)
    return _shares(torch.stack([one.norm() for one in gradients]))


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (bias, shares), colour in zip(numbers["lstm"].items(), itertools.cycle(_COLOURS), strict=False):
        left.plot(shares, color=colour, label=f"LSTM, c, forget bias {float(bias):g}")
        left.plot(numbers["gates"][bias], color=colour, ls=":", lw=1)
    left.plot(numbers["rnn"], color="#D55E00", label="vanilla RNN of radius 0.9, h")
    left.set(title="Over time (dotted: the forget gates alone)", xlabel="steps back from the loss")
    left.set(ylabel="share of the gradient left")
    right.plot(numbers["residual"], color="#0072B2", label="residual, x + f(x)")
    right.plot(numbers["divided"], color="#009E73", label="residual, x + f(x) / depth")
    right.plot(numbers["plain"], color="#D55E00", label="plain, f(x)")
    right.set(title="Over depth", xlabel="layers back from the loss")
    for axes in (left, right):
        axes.set(yscale="log", ylim=(1e-14, 1e3))
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
