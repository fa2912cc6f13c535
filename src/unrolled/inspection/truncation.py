"""How far a truncated gradient is from the full one: which k2 is enough, on this model and data.

Truncated BPTT(k1, k2) takes the loss of k1 new steps at a time, whose gradient goes k2 steps back from the last of them; the
state goes on, its gradient ends there. Here the same loss of the same sequences is differentiated with the recurrent layers cut
so, for growing k2, and without a cut. k1 is the run's own where k2 is longer, else k2: chunks of k2 steps. What is compared is
the gradient of the recurrent layers' weights: what is above them is the same either way.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from unrolled import bptt
from unrolled.errors import RunError
from unrolled.inspection.gradients import require_finite, require_recurrent
from unrolled.layers import Recurrent

ENOUGH = 0.99
"""The cosine with the full gradient from which on a truncated one counts as its like, ..."""
NEAR = 0.05
"""... if its norm is no further from the full one's than this share."""


class Row(NamedTuple):
    """What one k2 comes to."""

    k2: int
    k1: int
    """New steps between two cuts."""
    cosine: float
    """Between the truncated gradient and the full one."""
    norm: float
    """The truncated gradient's, as a share of the full one's."""


class Truncation(NamedTuple):
    """What `measure` found."""

    sentence: str
    steps: int
    """Of the longest sequence; the last row's k2."""
    suggested: int
    """The least k2 that is enough."""
    rows: list[Row]

    def numbers(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self._asdict(), "rows": [row._asdict() for row in self.rows]}


def measure(
    model: nn.Module,
    loss: Callable[[], Tensor],
    trained_with: int | None = None,
    k1: int | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Truncation:
    """Differentiate a loss for k2 = 1, 2, 4, ... up to the longest sequence.

    Args:
        model: its `unrolled` layers are cut, those that step through time by themselves (cells) are not.
        loss: computes it anew at each call, the same each time.
        trained_with: the model's own k2, measured too.
        k1: the model's own, for every k2 that is longer; when left out k1 = k2.
        report: called with what is being measured, how much of it is done, and the total.

    Raises:
        RunError: no layer that can be cut: none runs over sequences in batches, or one reads them backwards too; weights or a
            gradient that are not finite, or no gradient.

    >>> import torch, unrolled
    >>> rnn, x = unrolled.RNN(3, 4), torch.randn(8, 2, 3)
    >>> rows = measure(rnn, lambda: rnn(x)[0].square().sum()).rows
    >>> [row.k2 for row in rows], round(rows[-1].cosine, 4), round(rows[-1].norm, 4)
    ([1, 2, 4, 8], 1.0, 1.0)
    """
    require_recurrent(model, None)
    require_finite(model)
    layers = [one for one in model.modules() if isinstance(one, Recurrent)]
    if any(one.bidirectional for one in layers):
        raise RunError(
            "expected layers of one direction to truncate, got a bidirectional one, which has to see the whole sequence. How "
            "far its gradients reach is shown by gradients."
        )
    weights = [weight for one in layers for weight in one.parameters() if weight.requires_grad]
    if layers and not weights:
        raise RunError("expected recurrent layers that learn, got frozen ones: no weight of theirs has requires_grad.")
    lengths: list[int] = []
    full = _gradient(layers, weights, loss, None, lengths) if layers else torch.zeros(0)
    steps = max(lengths, default=1)
    if not torch.isfinite(full).all() or (layers and not full.any()):
        got = "zero: the loss does not depend on them" if torch.isfinite(full).all() else "one that is NaN or infinite"
        raise RunError(f"expected a gradient of the recurrent layers' weights, got {got}.")
    if steps < 2:
        raise RunError("expected layers that run over sequences, got a model that takes its steps one by one.")
    k2s = {2**k for k in range(steps.bit_length())} | {steps} | ({trained_with} if trained_with else set())
    rows: list[Row] = []
    tried = sorted(k2 for k2 in k2s if k2 <= steps)
    for number, k2 in enumerate(tried, 1):
        new = min(k1 or k2, k2)
        cut = _gradient(layers, weights, loss, k2, lengths, new)
        cosine = torch.nn.functional.cosine_similarity(cut, full, dim=0)
        rows.append(Row(k2, new, float(cosine), float(cut.norm() / full.norm())))
        if report:
            report("truncated gradients", number, len(tried))
    suggested = steps
    for row in reversed(rows):  # it stays enough from here on
        if row.cosine < ENOUGH or abs(row.norm - 1) > NEAR:
            break
        suggested = row.k2
    return Truncation(_in_words(rows, suggested, steps, trained_with), steps, suggested, rows)


@contextmanager
def cut(layers: list[Recurrent], k2: int | None, lengths: list[int] | None = None, k1: int | None = None) -> Iterator[None]:
    """Within it, the layers' gradient flows no further back through their state than in truncated BPTT(k1, k2).

    k2 of None cuts nothing, k1 of None is k2; `lengths` gets the number of steps of every call. Of k1 < k2 each layer module is
    cut by itself: of a stack that is one module, such as a language model's, the gradient is that of training.
    """
    own = [layer.__dict__.get("forward") for layer in layers]  # where somebody has put one in the class's place
    for layer in layers:
        layer.forward = partial(_truncated, layer, k1 or k2, k2, lengths)  # type: ignore[method-assign]  # undone below
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before


def _truncated(
    layer: Recurrent,
    k1: int | None,
    k2: int | None,
    seen: list[int] | None,
    input: Tensor,
    hx: Any = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Any]:
    """A call of the layer, window by window: each computes k1 new steps, from the state up to k2 steps before their end."""
    time, forward = 1 if layer.batch_first else 0, type(layer).forward
    if not isinstance(input, Tensor) or input.dim() + (not input.is_floating_point()) != 3:
        raise RunError("expected calls of the layers with batches of sequences (T, B, I), got a packed or a single one.")
    steps = input.shape[time]
    if seen is not None:
        seen.append(steps)

    def run(begin: int, end: int, state: Any) -> tuple[Tensor, Any]:
        masks = {
            "lengths": None if lengths is None else (torch.as_tensor(lengths) - begin).clamp(0, end - begin),
            "resets": None if resets is None else resets.narrow(time, begin, end - begin),
        }
        return forward(layer, input.narrow(time, begin, end - begin), state, **masks, **others)

    outputs, state, known, last = [], hx, 0, hx  # `state` is the one before step `known`, `last` that after the last window
    for first in range(0, steps, k1 or steps):
        end = min(first + (k1 or steps), steps)
        begin = max(0, end - (k2 or steps)) if k1 != k2 else first
        if begin == first:
            state = last
        elif begin > known:  # the window overlaps the one before
            with torch.no_grad():
                _, state = run(known, begin, state)
        known = begin
        if begin:
            state = _detached_where(state, None if lengths is None else torch.as_tensor(lengths).cpu() > begin)
        output, last = run(begin, end, state)
        outputs.append(output.narrow(time, first - begin, end - first))
    return torch.cat(outputs, time), last


def _detached_where(state: Any, alive: Tensor | None) -> Any:
    """The state, detached of the sequences that go on: the last state of one that has ended keeps its gradient."""
    if alive is None:
        return bptt.detach(state)
    if isinstance(state, tuple):
        return tuple(_detached_where(part, alive) for part in state)
    return torch.where(alive.to(state.device)[:, None], state.detach(), state)


def _gradient(
    layers: list[Recurrent],
    weights: list[nn.Parameter],
    loss: Callable[[], Tensor],
    k2: int | None,
    lengths: list[int],
    k1: int | None = None,
) -> Tensor:
    with cut(layers, k2, lengths, k1):
        value = loss()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    return torch.cat([part.flatten() for part in parts]).double()


def _in_words(rows: list[Row], suggested: int, steps: int, trained_with: int | None) -> str:
    row = next(row for row in rows if row.k2 == suggested)
    if suggested == steps:
        before = rows[-2] if len(rows) > 1 else row
        text = (
            f"No k2 below all {steps:,} steps is enough here: with k2 = {before.k2:,} the gradient has a cosine of "
            f"{before.cosine:.3f} with the full one, and {before.norm:.0%} of its norm."
        )
    else:
        text = (
            f"k2 = {suggested:,} is enough here: its gradient has a cosine of {row.cosine:.3f} with that over all {steps:,} "
            f"steps, and {row.norm:.0%} of its norm."
        )
    own = next((one for one in rows if one.k2 == trained_with), None)
    if own is None:
        return text
    return f"{text} It was trained with k1 = {own.k1:,}, k2 = {own.k2:,} (cosine {own.cosine:.3f})."


def draw(found: Truncation, title: str = "") -> Figure:
    """Cosine and norm of the truncated gradient against k2, under the sentence."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    figure.suptitle("\n".join(filter(None, [title, *textwrap.wrap(found.sentence, 90)])), fontsize=10)
    axes = figure.subplots()
    k2s = [row.k2 for row in found.rows]
    axes.plot(k2s, [row.cosine for row in found.rows], "o-", label="cosine with the full gradient")
    axes.plot(k2s, [row.norm for row in found.rows], "s--", label="norm, as a share of the full one's")
    axes.axhline(1, color="grey", lw=0.6)
    axes.axvline(found.suggested, color="tab:green", lw=1, ls=":", label=f"enough: k2 = {found.suggested}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(k2s, [str(k2) for k2 in k2s], fontsize=8)
    k1 = max(row.k1 for row in found.rows)
    of_k1 = "k1 = k2" if k1 == k2s[-1] else f"k1 = k2 up to {k1}, then {k1}"
    axes.set(xlabel=f"k2: steps that the gradient flows back ({of_k1})")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
