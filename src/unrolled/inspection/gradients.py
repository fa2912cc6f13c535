"""Where a model's gradient goes on its way back through time: numbers, a sentence, a figure."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from unrolled.errors import RunError, nearest
from unrolled.inspection.gradient_flow import EXPLODED, GONE, Flow, Recorder, is_recurrent
from unrolled.inspection.inside import Inside, saturation, spectral_radii, take_apart
from unrolled.inspection.jacobian import spaced, through_time
from unrolled.layers import LAYERS, Recurrent

_THROUGH = 0.1
"""The share that is left where a gradient is said to come through."""
_LONGEST_JACOBIAN = 64
"""Steps: each costs a step of the definition, forwards and backwards, in every round."""


class Gradients(NamedTuple):
    """What `look` found."""

    sentence: str
    """What happens to the gradient, in plain words, with the number that it rests on."""
    flows: list[Flow]
    """Of every layer and direction."""
    weights: dict[str, dict[str, Any]]
    """By the flow's name: `spectral_radius` of W_hh, gate `saturation` and `jacobian`, see `inside` and `jacobian`; for layers
    that run whole sequences and have no option that changes steps."""

    def within(self, steps: int) -> Gradients:
        """The same, no further back than so many steps."""
        flows = [flow.within(steps) for flow in self.flows]
        return Gradients(in_words(flows), flows, self.weights)

    def numbers(self) -> dict[str, Any]:
        """As JSON has it."""
        layers = {flow.name: {**flow.numbers(), **self.weights.get(flow.name, {})} for flow in self.flows}
        for facts in layers.values():
            del facts["name"]
        return {"sentence": self.sentence, "layers": layers}


def look(
    model: nn.Module,
    loss: Callable[[], Tensor],
    layer: str | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Gradients:
    """Take the gradient of a loss and see where it goes.

    Args:
        model: its `unrolled` layers and cells are looked at.
        loss: computes it from the model's outputs: of whole sequences, as training has them.
        layer: the name of the only module to look at; all when left out.
        report: called with what is being measured, how much of it is done, and the total.

    Raises:
        RunError: there is no recurrent layer, or none of that name; weights or a loss that are not finite; a loss that is not
            one number with a graph; or calls without a batch axis alone.

    >>> import torch, unrolled
    >>> rnn, x = unrolled.RNN(3, 4), torch.randn(20, 2, 3)
    >>> look(rnn, lambda: rnn(x)[0][-1].sum()).flows[0].name
    'l0'
    """
    require_recurrent(model, layer)
    require_finite(model)
    calls: dict[str, tuple[Tensor, Any, dict[str, Any]]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and x.dim() + (not x.is_floating_point()) == 3:
                masks = {key: kwargs.get(key) for key in ("lengths", "resets", "embedding")}
                calls[name] = x.detach(), args[1] if len(args) > 1 else kwargs.get("hx"), masks

        return hook

    chosen = {name: one for name, one in model.named_modules() if is_recurrent(one) and layer in (None, name)}
    kept = [(weight, weight.grad) for weight in model.parameters()]
    with ExitStack() as after:
        for name, one in chosen.items():
            if isinstance(one, Recurrent):
                after.callback(one.register_forward_pre_hook(note(name), with_kwargs=True).remove)
        for weight, grad in kept:
            weight.grad = None
            after.callback(setattr, weight, "grad", grad)
        after.enter_context(torch.enable_grad())
        recorder = after.enter_context(Recorder(model, layer))
        value: Any = loss()
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            got = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            got += " without a gradient" * (isinstance(value, Tensor) and not value.requires_grad)
            raise RunError(f"expected a loss of one number that depends on the model, with its graph, got {got}.")
        if not bool(torch.isfinite(value.detach())):
            raise RunError(
                f"expected a finite loss, got {float(value.detach())}. Is the data finite, and the model well trained?"
            )
        value.backward()
    flows = recorder.flows()
    if not flows:
        raise RunError(
            "no gradient arrived at a recurrent layer: the loss does not depend on one, or calls it without a batch axis, or "
            "with packed sequences. Give padded ones and lengths=."
        )
    apart: dict[str, Inside] = {}
    for name, (x, hx, masks) in calls.items():
        one: Any = chosen[name]
        if not one.step_option.replace("learned_state", "") and x.shape[1 if one.batch_first else 0] > 1:
            apart |= {".".join(filter(None, (name, inside.place))): inside for inside in take_apart(one, x, hx, **masks)}
    distances = {name: spaced(min(len(inside.x_gates), _LONGEST_JACOBIAN)) for name, inside in apart.items()}
    done, total = itertools.count(1), sum(map(len, distances.values()))

    def told() -> None:
        if report:
            report("Jacobians", next(done), total)

    weights = {
        name: {
            "spectral_radius": spectral_radii(inside),
            "saturation": saturation(inside),
            "jacobian": through_time(inside, distances[name], told=told),
        }
        for name, inside in apart.items()
    }
    return Gradients(in_words(flows), flows, weights)


def untrained(
    cell: str, hidden_size: int, num_layers: int = 1, *, steps: int = 100, batch_size: int = 16, seed: int = 0
) -> Gradients:
    """The same of fresh layers that read noise, inputs of mean 0 and deviation 1 as wide as the state; the loss is a random
    projection of the last step's output.

    >>> untrained("lstm", 8, steps=10).flows[0].of_last_step
    True
    """
    torch.manual_seed(seed)
    model = LAYERS[cell](hidden_size, hidden_size, num_layers)
    x, direction = torch.randn(steps, batch_size, hidden_size), torch.randn(batch_size, hidden_size)
    return look(model, lambda: (model(x)[0][-1] * direction).sum())


def require_recurrent(model: nn.Module, layer: str | None) -> None:
    """Refuse a model without recurrent layers, and a name that is none of them.

    Raises:
        RunError: naming those that there are.
    """
    there = dict(model.named_modules(remove_duplicate=False))
    names = [name for name, one in model.named_modules() if is_recurrent(one)]
    if not names:
        raise RunError(f"expected a model with recurrent layers, got {type(model).__name__}, which has none.")
    if layer is not None and layer not in names:
        again = next((name for name in names if there.get(layer) is there[name]), None)
        what = "is no part of this model" if layer not in there else "has no recurrence"
        what = what if again is None else f"is another name of {again!r}"
        raise RunError(f"layer {layer!r} {what}; recurrent are: {', '.join(map(repr, names))}.{nearest(layer, names)}")


def require_finite(model: nn.Module) -> None:
    """Refuse weights with NaN or infinity.

    Raises:
        RunError: naming the first.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            bad = int((~torch.isfinite(weight)).sum())
            raise RunError(
                f"{name}: expected finite weights, got {bad:,} of {weight.numel():,} that are NaN or infinite. The model is "
                "damaged, or its training diverged: take a run that ended well."
            )


def in_words(flows: list[Flow]) -> str:
    """What happens to the gradient, in plain words: in the layer where it reaches furthest, and where it falls short of that.

    >>> in_words([Flow("l0", [1.0, 0.1, 0.001], [], [1.0, 0.1, 0.001], True, [])])
    'The gradient vanishes: from 2 steps back on, less than 1% of it is left (l0: 0.1% at 2 steps, 0.032 per step).'
    """
    grown = max(flows, key=lambda flow: max(flow.left))
    if max(grown.left) >= EXPLODED:
        at = grown.left.index(max(grown.left))
        return (
            f"The gradient explodes: {_steps(at)} back it is {max(grown.left):,.3g} times what it was ({_rests_on(grown, at)})."
        )
    by_reach = sorted(flows, key=_reach)
    shortest, furthest = by_reach[0], by_reach[-1]
    more = ""
    if _reach(shortest) < _reach(furthest) and shortest.reach is not None:
        more = f" In {shortest.name} it is so from {_steps(shortest.reach)} back on."
    if furthest.reach is not None:
        at = furthest.reach
        return (
            f"The gradient vanishes: from {_steps(at)} back on, less than {GONE:.0%} of it is left "
            f"({_rests_on(furthest, at)}).{more}"
        )
    at = len(furthest.left) - 1
    more = more.replace("it is so", f"less than {GONE:.0%} is left")
    if at == 0:
        return f"One step alone: there is nothing to see on the way back ({furthest.name})."
    left, what = _percent(furthest.left[at]), "comes through" if furthest.left[at] >= _THROUGH else "fades"
    return f"The gradient {what}: {_steps(at)} back, {left} of it is left ({_rests_on(furthest, at)}).{more}"


def _reach(flow: Flow) -> tuple[bool, int, float]:
    """Whether it comes through, how far, and what is left there: to compare by."""
    return flow.reach is None, len(flow.left) if flow.reach is None else flow.reach, flow.left[-1]


def _rests_on(flow: Flow, at: int) -> str:
    path = ", through c" if flow.c else ""
    whole = "" if flow.of_last_step else ", of the loss of all steps"
    rate = f", {flow.left[at] ** (1 / at):.2g} per step" if at and flow.left[at] else ""
    return f"{flow.name}{path}{whole}: {_percent(flow.left[at])} at {_steps(at)}{rate}"


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 1 else f"{100 * share:,.0f}%"


def draw(found: Gradients, title: str = "") -> Figure:
    """Three plots under the sentence: what arrives at the states, the Jacobian's singular values, the gates.

    Args:
        found: by `look`.
        title: what was looked at.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle("\n".join([*filter(None, [title]), *_wrapped(found.sentence, 105)]), fontsize=11)
    grid = figure.add_gridspec(2, 2, height_ratios=[1.15, 1])
    _draw_flows(figure.add_subplot(grid[0, :]), found)
    _draw_jacobians(figure.add_subplot(grid[1, 0]), found)
    _draw_gates(figure.add_subplot(grid[1, 1]), found)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _colours(found: Gradients) -> dict[str, str]:
    """Of each layer, the same in every plot."""
    return {flow.name: f"C{number % 10}" for number, flow in enumerate(found.flows)}


def _draw_flows(axes: Axes, found: Gradients) -> None:
    flows, colours = found.flows, _colours(found)
    for flow in flows:
        colour = colours[flow.name]
        for path, style in (("h", "-"), ("c", "--")):
            values = flow.h if path == "h" else flow.c
            if values:
                shown = [value if value > 0 else math.nan for value in values]
                axes.plot(range(len(shown)), shown, style, color=colour, lw=1.4, label=rf"{flow.name}  $\|dL/d{path}_t\|$")
        if flow.reach is not None:
            axes.axvline(flow.reach, color=colour, lw=0.8, ls=":")
    alone = all(flow.of_last_step for flow in flows)
    axes.set(xlabel="steps back from the loss", ylabel="norm of the gradient", yscale="log")
    of = "the last step's loss" if alone else "the loss"
    axes.set_title(f"what arrives at the states, of {of}; dotted: from here on less than {GONE:.0%} is left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _draw_jacobians(axes: Axes, found: Gradients) -> None:
    colours = _colours(found)
    for name in filter(found.weights.__contains__, colours):
        for path, points in found.weights[name]["jacobian"].items():
            distances = [point["distance"] for point in points]
            for rank in range(len(points[0]["singular_values"]) if points else 0):
                values = [max(point["singular_values"][rank], 1e-30) for point in points]
                label = rf"{name}  $\partial {path}_T / \partial {path}_t$" if rank == 0 else None
                style = {"color": colours[name], "ls": "-" if path == "h" else "--", "alpha": 1 / (1 + rank)}
                axes.plot(distances, values, ".", label=label, ms=4, lw=1.2, **style)
    axes.axhline(1, color="grey", lw=0.6)
    axes.set(xlabel="T - t: steps back", ylabel="singular values", yscale="log")
    axes.set_title("Jacobian through time: its largest singular value, and paler the next ones", fontsize=10)
    axes.grid(alpha=0.3)
    if found.weights:
        axes.legend(frameon=False, fontsize=8)


def _draw_gates(axes: Axes, found: Gradients) -> None:
    names, low, high = [], [], []
    for name in filter(found.weights.__contains__, _colours(found)):
        facts = found.weights[name]
        for gate, shares in facts["saturation"].items():
            radius = facts["spectral_radius"].get(gate)
            names.append(f"{name} {gate}" + ("" if radius is None else f"  (radius {radius:.2f})"))
            low.append(-shares.get("shut", 0.0))
            high.append(shares.get("open", shares.get("saturated", shares.get("off", 0.0))))
    rows = range(len(names))
    axes.barh(rows, low, color="tab:blue", label="shut (below 0.1)")
    axes.barh(rows, high, color="tab:orange", label="open (above 0.9); tanh beyond ±0.9")
    axes.axvline(0, color="black", lw=0.6)
    axes.set_yticks(rows, names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(-1, 1), xlabel="share of units and steps")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["100%", "50%", "0", "50%", "100%"])
    axes.set_title("gates at their ends; spectral radius of their W_hh", fontsize=10)
    if names:
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width)
