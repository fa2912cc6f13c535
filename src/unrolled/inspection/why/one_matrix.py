"""One matrix at every step: dL/dW_hh is a sum of what each of its uses contributes."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from unrolled.inspection.why.networks import of_radius, random


def measure(steps: int = 24, hidden_size: int = 32, radius: float = 0.9, seed: int = 0) -> dict[str, Any]:
    """Unroll a vanilla RNN with a copy of W_hh for each step, and compare their gradients with that of the one matrix.

    The loss reads h_T. Keys: `contributions`, the norm of each copy's gradient, first step first; `norm_of_sum`; and
    `difference`, between the copies' sum and what the layer's own backward says, relative to that.
    """
    layer, x = of_radius(8, hidden_size, radius, seed=seed), torch.randn(steps, 1, 8, generator=random(seed))
    direction = torch.randn(hidden_size, generator=random(seed + 1))
    [[weight_ih, weight_hh, bias_ih, bias_hh]] = layer.all_weights
    copies = [weight_hh.detach().clone().requires_grad_() for _ in x]
    h = torch.zeros(1, hidden_size)
    for x_t, own in zip(x, copies, strict=True):
        h = torch.tanh(x_t @ weight_ih.T + bias_ih + h @ own.T + bias_hh)
    gradients = torch.autograd.grad(h[0] @ direction, copies)
    output, _ = layer(x)
    (shared,) = torch.autograd.grad(output[-1, 0] @ direction, [weight_hh])
    difference = (torch.stack(gradients).sum(0) - shared).norm() / shared.norm()
    return {
        "contributions": [float(one.norm()) for one in gradients],
        "norm_of_sum": float(shared.norm()),
        "difference": float(difference),
    }


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    unrolled_network(left)
    contributions = numbers["contributions"]
    right.bar(range(1, len(contributions) + 1), contributions, color="#0072B2")
    right.set(xlabel="step t", ylabel="contribution of step t, its norm", title="The gradient of W_hh is their sum")
    right.spines[["top", "right"]].set_visible(False)
    return figure


def unrolled_network(axes: Any, losses: bool = False) -> None:
    """Three steps of a network and the arrows between them; with losses, what comes back to the middle one."""
    axes.set(xlim=(-0.7, 4.7), ylim=(-1.35, 1.65))
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.45", "facecolor": "#F7F7F7", "edgecolor": "#333333"}
    for n, name in enumerate((r"$h_{t-1}$", r"$h_t$", r"$h_{t+1}$")):
        axes.text(2 * n, 0, name, ha="center", va="center", bbox=box, fontsize=12)
        below = name.replace("h", "x", 1)
        axes.text(2 * n, -1.25, below, ha="center", va="center", fontsize=12)
        _arrow(axes, (2 * n, -1.08), (2 * n, -0.36))
        if losses:
            axes.text(2 * n, 1.45, name.replace("h", "L", 1), ha="center", va="center", fontsize=12)
            _arrow(axes, (2 * n - 0.12, 0.36), (2 * n - 0.12, 1.25), "#999999")
    for n in (0, 1):
        _arrow(axes, (2 * n + 0.45, 0.1), (2 * n + 1.55, 0.1), "#999999" if losses else "#D55E00")
        if not losses:
            axes.text(2 * n + 1, 0.3, r"$W_{hh}$", ha="center", color="#D55E00", fontsize=12)
    if losses:
        _arrow(axes, (2.12, 1.25), (2.12, 0.36), "#0072B2")
        axes.text(2.2, 0.8, "from this step's loss", color="#0072B2", fontsize=9, va="center")
        _arrow(axes, (3.55, -0.12), (2.45, -0.12), "#D55E00")
        axes.text(3, -0.5, "from all later ones", color="#D55E00", fontsize=9, ha="center")
    else:
        _arrow(axes, (-0.7, 0.1), (-0.45, 0.1), "#D55E00")
        axes.text(4, 1.45, "L", ha="center", va="center", fontsize=12)
        _arrow(axes, (4, 0.36), (4, 1.25), "#999999")
        axes.set_title("The same matrix at every step")


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str = "#333333") -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=colour, shrinkA=0, shrinkB=0, lw=1.6))
