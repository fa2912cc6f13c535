"""Two gradients into every h_t: one from this step's loss, one from all later steps."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from unrolled.inspection.why.networks import of_radius, random
from unrolled.inspection.why.one_matrix import unrolled_network


def measure(steps: int = 24, hidden_size: int = 32, radius: float = 0.9, seed: int = 0) -> dict[str, Any]:
    """Go back through a vanilla RNN by hand, with a loss at every step, and keep both parts of dL/dh_t.

    dL/dh_t = dL_t/dh_t + W_hh^T diag(1 - h_{t+1}^2) dL/dh_{t+1}. Keys: norms `own` (the first part), `later` (the second),
    `total` (their sum), first step first; and `difference`, the largest between `total` and what the layer's kernel gives
    as `gradient_norms`, relative to the largest total.
    """
    layer, x = of_radius(8, hidden_size, radius, seed=seed), torch.randn(steps, 1, 8, generator=random(seed))
    targets = torch.randn(steps, hidden_size, generator=random(seed + 1)) / 2
    norms = torch.zeros(1, 2, steps, 1)
    output, _ = layer(x, gradient_norms=norms)
    ((output[:, 0] - targets).square().sum() / 2).backward()
    weight_hh = layer.all_weights[0][1].detach()
    h, later = output[:, 0].detach(), torch.zeros(hidden_size)
    parts = []
    for t in reversed(range(steps)):
        own = h[t] - targets[t]  # dL_t/dh_t of L_t = ||h_t - y_t||^2 / 2
        total = own + later
        parts.append([float(one.norm()) for one in (own, later, total)])
        later = weight_hh.T @ ((1 - h[t] ** 2) * total)
    own, later, total = (list(reversed(column)) for column in zip(*parts, strict=True))
    difference = (torch.tensor(total) - norms[0, 0, :, 0]).abs().max() / max(total)
    return {"own": own, "later": later, "total": total, "difference": float(difference)}


def draw(numbers: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    unrolled_network(left, losses=True)
    left.set_title("Two gradients arrive at every step")
    steps = range(1, len(numbers["own"]) + 1)
    for name, label, colour in (
        ("own", "from this step's loss", "#0072B2"),
        ("later", "from all later ones", "#D55E00"),
        ("total", "their sum: dL/dh_t", "#333333"),
    ):
        right.plot(steps, numbers[name], "o-", ms=3, label=label, color=colour)
    right.set(xlabel="step t", ylabel="norm", ylim=(0, None), title="What they bring")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    return figure
