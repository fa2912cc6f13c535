"""Truncation: what a gradient that reaches k2 steps back has of the full one, and what is learned with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from unrolled import bptt
from unrolled.inspection.why.networks import fresh, random

SYMBOLS, BATCH, HIDDEN = 6, 16, 48
BEGUN = 60
"""Iterations after which gradients are compared: the network begins to need what lies behind."""


class _Echo(nn.Module):
    """A GRU that is to say at each step what it read some steps before."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = fresh("gru", SYMBOLS, HIDDEN, seed=seed)
        self.weight = nn.Parameter(torch.randn(SYMBOLS, HIDDEN, generator=random(seed)) / HIDDEN**0.5)

    def backward(self, x: Tensor, targets: Tensor, k2: int) -> float:
        """Put the gradient of the mean loss into .grad, truncated every k2 steps; return the loss. x and targets (T, B)."""
        self.zero_grad()
        total = 0.0
        for steps, hidden, _ in bptt.truncated(self.layer, x, k1=k2):
            scores = (hidden @ self.weight.T).flatten(0, 1)  # (k2 * B, symbols)
            loss = cross_entropy(scores, targets[steps].flatten(), reduction="sum", ignore_index=-100)
            loss = loss / (targets >= 0).sum()
            loss.backward()
            total += float(loss.detach())
        return total

    def gradient(self) -> Tensor:
        return torch.cat([one.grad.flatten() for one in self.parameters() if one.grad is not None])


def measure(delay: int = 6, steps: int = 32, iterations: int = 800, seed: int = 0) -> dict[str, Any]:
    """Truncated gradients beside the full one, and the loss after training with each.

    Keys: `delay`; `gradients`, a list of k2, `cosine` and `norm` relative to the full gradient, of a network that full BPTT has
    begun to teach; `training`, a list of k2 and `loss`, the mean of the last twenty of the iterations; `guess`, the loss of
    one that remembers nothing.
    """
    network = _trained(steps, BEGUN, delay, steps, seed)[0]
    x, targets = _echo(steps, delay, random(seed + 1))
    network.backward(x, targets, k2=steps)
    full = network.gradient()
    gradients = []
    for k2 in sorted({*_powers(1, steps), 2 * delay}):
        network.backward(x, targets, k2)
        own = network.gradient()
        cosine, norm = float(cosine_similarity(own, full, dim=0)), float(own.norm() / full.norm())
        gradients.append({"k2": k2, "cosine": cosine, "norm": norm})
    tried = sorted({*_powers(4, steps), 2 * delay})
    training = [{"k2": k2, "loss": _trained(k2, iterations, delay, steps, seed)[1]} for k2 in tried]
    return {"delay": delay, "gradients": gradients, "training": training, "guess": math.log(SYMBOLS)}


def _trained(k2: int, iterations: int, delay: int, steps: int, seed: int) -> tuple[_Echo, float]:
    """The network and the mean of its last twenty losses."""
    network, generator = _Echo(seed), random(seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(iterations):
        losses.append(network.backward(*_echo(steps, delay, generator), k2))
        optimizer.step()
    return network, sum(losses[-20:]) / len(losses[-20:])


def _echo(steps: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Symbols (T, B), and what each was `delay` steps before; -100, which counts for nothing, where that is not known."""
    x = torch.randint(0, SYMBOLS, (steps, BATCH), generator=generator)
    return x, torch.cat([torch.full((delay, BATCH), -100), x[:-delay]])


def _powers(first: int, last: int) -> list[int]:
    """Doubled from `first` up to `last`."""
    return [first * 2**n for n in range((last // first).bit_length())]


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    k2 = [one["k2"] for one in numbers["gradients"]]
    for name, label, style, colour in (
        ("cosine", "direction (cosine)", "o-", "#0072B2"),
        ("norm", "length (norm)", "s--", "#E69F00"),
    ):
        left.plot(k2, [one[name] for one in numbers["gradients"]], style, ms=4, color=colour, label=label)
    left.set(title="What a truncated gradient has of the full one", ylim=(0, 1.1), ylabel="share")
    learned = [one["k2"] for one in numbers["training"]]
    right.plot(
        learned, [one["loss"] for one in numbers["training"]], "o-", ms=4, color="#D55E00", label="after training with k2"
    )
    right.axhline(numbers["guess"], color="#555555", ls="--", lw=1.2, label="a guess")
    right.set(title="What is learned with it", ylim=(0, 1.15 * numbers["guess"]), ylabel="loss")
    for axes in (left, right):
        axes.axvline(numbers["delay"], color="#555555", ls=":", lw=1.2, label="what is asked for lies this far back")
        axes.set(xscale="log", xlabel="k2: steps that the gradient goes back")
        axes.set_xticks(k2, [str(one) for one in k2])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure
