"""Where gradients vanish and explode: the vanilla RNN over its spectral radius and the steps, and after each remedy.

h_t = tanh(W_ih x_t + W_hh h_{t-1}); dL/dh_t is dL/dh_T times T - t Jacobians diag(1 - h^2) W_hh. Below a spectral radius of 1
it has to vanish; above, it may explode, unless tanh saturates (Pascanu, Mikolov and Bengio 2013, section 2). W_hh is drawn from
a Gaussian and scaled to each radius (of the LSTM and GRU: each gate's), inputs are noise, the loss is of the last step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from unrolled.inspection.gradient_flow import EXPLODED, GONE, Flow
from unrolled.layers import GRU, LSTM, RNN, Recurrent

RADII = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0)
AGREES = 0.05
"""How far the factor per step may be from the spectral radius to agree with it: relative."""
_FLOOR, _CEILING = 1e-30, 1e18
"""What is drawn as nothing, and from where on float32 has no more room for squares."""
_NOISE = 0.1
"""Deviation of W_ih x_t, about: so little that a state near 0 stays there unless W_hh lifts it."""


class Variant(NamedTuple):
    """A layer that the sweep tries."""

    name: str
    make: Callable[[int], Recurrent]
    """Of a hidden size."""
    draw: Callable[[int], Tensor]
    """Its W_hh (H, H) before it is scaled; of several gates one each."""
    clipped: bool = False
    """Whether the gradient is scaled down to a norm of 1 over all weights."""


def _gaussian(size: int) -> Tensor:
    return torch.randn(size, size)


def _orthogonal(size: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(size, size))


VARIANTS = (
    Variant("vanilla RNN", lambda size: RNN(size, size), _gaussian),
    Variant("orthogonal W_hh", lambda size: RNN(size, size), _orthogonal),
    Variant("identity W_hh, ReLU", lambda size: RNN(size, size, nonlinearity="relu"), torch.eye),
    Variant("layer normalisation", lambda size: RNN(size, size, layer_norm=True), _gaussian),
    Variant("clipping to norm 1", lambda size: RNN(size, size), _gaussian, clipped=True),
    Variant("GRU", lambda size: GRU(size, size), _gaussian),
    Variant("LSTM, through c", lambda size: LSTM(size, size), _gaussian),
    Variant("LSTM, forget bias 1", lambda size: LSTM(size, size, forget_bias=1.0), _gaussian),
)
"""Saxe, McClelland and Ganguli 2014 (orthogonal); Le, Jaitly and Hinton 2015 (identity); Ba, Kiros and Hinton 2016 (layer
normalisation); Jozefowicz, Zaremba and Sutskever 2015 (forget bias)."""


class Point(NamedTuple):
    """One variant at one spectral radius."""

    radius: float
    factor: float | None
    """By what the gradient is multiplied per step back; None where nothing arrives."""
    left: list[float]
    """The share that is left d steps back."""


class Sweep(NamedTuple):
    """What `run` found."""

    sentence: str
    steps: int
    points: dict[str, list[Point]]
    """By variant."""

    def numbers(self) -> dict[str, Any]:
        """As JSON has it; `agrees` says of which radii the vanilla RNN's factor per step is the radius, to 5%."""
        vanilla = self.points[VARIANTS[0].name]
        return {
            "sentence": self.sentence,
            "agrees": [point.radius for point in vanilla if _agrees(point)],
            "variants": {name: [point._asdict() for point in points] for name, points in self.points.items()},
        }


def run(hidden_size: int = 64, steps: int = 100, batch_size: int = 8, seed: int = 0) -> Sweep:
    """Measure every variant at every radius of `RADII`; the same noise for all.

    >>> list(run(8, steps=5).points)[0]
    'vanilla RNN'
    """
    points = {
        variant.name: [_measure(variant, radius, hidden_size, steps, batch_size, seed) for radius in RADII]
        for variant in VARIANTS
    }
    return Sweep(_in_words(points, steps), steps, points)


def _measure(variant: Variant, radius: float, size: int, steps: int, batch: int, seed: int) -> Point:
    torch.manual_seed(seed)
    layer = variant.make(size)
    w_ih, w_hh = layer.all_weights[0][:2]
    gates = w_hh.shape[0] // size
    with torch.no_grad():
        blocks = []
        for _ in range(gates):
            block = variant.draw(size)
            blocks.append(block * (radius / float(torch.linalg.eigvals(block).abs().max())))
        w_hh.copy_(torch.cat(blocks))
        w_ih.normal_(std=_NOISE / math.sqrt(size))
        for name, parameter in layer.named_parameters():
            if name.startswith("bias") and layer.forget_bias is None:
                parameter.zero_()
    x = torch.randn(steps, batch, size)
    direction = nn.functional.normalize(torch.randn(batch, size), dim=1)  # dL/dh_T
    norms = torch.zeros(1, 2, steps, batch)
    output, _ = layer(x, gradient_norms=norms)
    (output[-1] * direction).sum(1).mean().backward()
    carried = norms[0, 1 if layer.mode == "LSTM" else 0].double().flip(0)  # (T, B)
    left = (carried / carried[:1]).mean(1)
    if variant.clipped:
        total = torch.stack([weight.grad.norm() for weight in layer.parameters() if weight.grad is not None]).norm()
        left = left * min(1.0, 1 / float(total))
    values = left.nan_to_num(nan=_CEILING, posinf=_CEILING).clamp(max=_CEILING).tolist()
    later = [value for value in values[steps // 5 :] if value < _CEILING]  # once the slowest mode is what is left
    return Point(radius, Flow("", [], [], later, True, []).factor, values)


def _agrees(point: Point) -> bool:
    return point.factor is not None and abs(point.factor / point.radius - 1) <= AGREES


def _in_words(points: dict[str, list[Point]], steps: int) -> str:
    vanilla = points[VARIANTS[0].name]
    agreeing = [point.radius for point in vanilla if _agrees(point)]
    last = vanilla[-1]
    where = f"from {min(agreeing):g} to {max(agreeing):g}" if agreeing else "nowhere"
    beyond = f"at {last.radius:g} it is {last.factor:.2f}" if last.factor is not None else f"at {last.radius:g} nothing arrives"
    gone = [point.radius for point in vanilla if point.left[-1] < GONE]
    grown = [point.radius for point in vanilla if point.left[-1] > EXPLODED]
    text = f"The vanilla RNN's gradient is multiplied by its spectral radius at every step, to {AGREES:.0%}, {where}; {beyond}."
    text += f" Over {steps} steps it vanishes up to {max(gone):g}" if gone else f" Over {steps} steps it vanishes nowhere"
    return text + (f" and explodes from {min(grown):g} on." if grown else ".")


def draw(found: Sweep) -> Figure:
    """A map for each variant: what is left of the gradient by spectral radius and distance; and the factor per step of all."""
    figure = Figure(figsize=(13, 10), layout="constrained")
    first, _, rest = found.sentence.partition("; ")
    figure.suptitle(f"{first};\n{rest}", fontsize=11)
    places = figure.subplots(3, 3).ravel()
    image = None
    for axes, (name, points) in zip(places, found.points.items(), strict=False):
        rows = [[max(-12.0, min(12.0, math.log10(max(value, _FLOOR)))) for value in point.left] for point in points]
        image = axes.imshow(rows, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-12, vmax=12, interpolation="nearest")
        for share, colour in ((GONE, "tab:blue"), (EXPLODED, "tab:red")):
            if min(map(min, rows)) < math.log10(share) < max(map(max, rows)):
                axes.contour(rows, levels=[math.log10(share)], colors=colour, linewidths=1)
        axes.set_yticks(range(len(points)), [f"{point.radius:g}" for point in points], fontsize=7)
        clipped = "\n(shares of the gradient before it)" * name.startswith("clipping")
        axes.set(title=name + clipped, xlabel="steps back", ylabel="spectral radius")
    if image is not None:
        figure.colorbar(image, ax=list(places[:8]), shrink=0.5, label="log10 of what is left; lines at 1% and at 100 times")
    last = places[len(found.points)]
    for number, (name, points) in enumerate(found.points.items()):
        known = [(point.radius, point.factor) for point in points if point.factor is not None]
        if known and not name.startswith("clipping"):
            last.plot(*zip(*known, strict=True), ".-", label=name, color=f"C{number}", lw=1)
    last.plot(RADII, RADII, "k:", lw=1, label="the spectral radius itself")
    last.set(title="factor per step", xlabel="spectral radius of W_hh", ylabel="measured")
    last.grid(alpha=0.3)
    last.legend(frameon=False, fontsize=7)
    return figure
