"""Training through time: how far back a gradient goes, and what is carried from one piece of a long sequence to the next.

Backpropagation through time (BPTT; Werbos 1990) unrolls the recurrence and differentiates it. *Full* BPTT goes back to the
first step. *Truncated* BPTT(k1, k2) (Williams and Peng 1990, there BPTT(h; h')) updates every k1 steps and goes back k2:
the state, carried on, brings the whole past forward, while its gradient is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Carry = TypeVar("Carry")
Forward = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""`(inputs (T, ...), state) -> (outputs (T, ...), state)`: a layer, or a model around one."""


def detach(state: Carry) -> Carry:
    """The same state, tensor or nest of tuples, lists and None, cut from the graph it was computed in.

    >>> h = torch.ones(2, requires_grad=True) * 3
    >>> detach((h, None))[0].requires_grad
    False
    """
    if state is None:
        return state
    if isinstance(state, Tensor):
        return state.detach()  # type: ignore[return-value]
    parts = [detach(part) for part in state]  # type: ignore[attr-defined]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)  # type: ignore[call-arg]


def window(forward: Forward, inputs: Tensor, state: Any, *, advance: int, dim: int = 0) -> tuple[Tensor, Any]:
    """Run all of `inputs` from `state`; return the outputs of every step and the state, cut, after the first `advance`.

    The gradient of the outputs reaches back to the window's first step and no further. The state returned is where the next
    window begins, which overlaps this one when k2 > k1. Time is axis `dim` of inputs and outputs.

    Raises:
        ValueError: advance is negative or beyond the window.

    >>> import torch, unrolled
    >>> gru, x = unrolled.GRU(3, 4), torch.randn(6, 2, 3)
    >>> outputs, state = window(gru, x, None, advance=4)  # 6 steps; the next window begins after 4
    >>> outputs.shape, bool((state[0] == outputs[3]).all()), state.requires_grad
    (torch.Size([6, 2, 4]), True, False)
    """
    steps = inputs.shape[dim]
    if not 0 <= advance <= steps:
        raise ValueError(f"advance expected from 0 to the window's {steps} steps, got {advance}.")
    begin = state = detach(state)
    if advance == steps:
        outputs, state = forward(inputs, state)
        return outputs, detach(state)
    pieces = []
    if advance > 0:
        output, state = forward(inputs.narrow(dim, 0, advance), state)
        pieces, begin = [output], detach(state)
    output, _ = forward(inputs.narrow(dim, advance, steps - advance), state)
    return torch.cat([*pieces, output], dim=dim), begin


def truncated(
    forward: Forward, inputs: Tensor, state: Any = None, *, k1: int, k2: int | None = None, dim: int = 0
) -> Iterator[tuple[slice, Tensor, Any]]:
    """Truncated BPTT(k1, k2) over a sequence: yields `(steps, outputs, state)` for every k1 new steps.

    `outputs` are those of the slice `steps`; their gradient reaches k2 steps back from the end of the slice. Take the loss,
    call `backward()` and step the optimizer before asking for the next. With k2 = k1 (the default) the sequence is cut into
    chunks; k2 > k1 looks further back and computes each step about k2 / k1 times; k2 < k1 trains only the last k2 of
    every k1 steps. `state` is where the next window starts, to be saved when training is to go on later.

    Raises:
        ValueError: k1 or k2 below 1.

    >>> import torch, unrolled
    >>> lstm, x = unrolled.LSTM(3, 4), torch.randn(10, 2, 3)
    >>> for steps, outputs, _ in truncated(lstm, x, k1=4, k2=8):
    ...     outputs.square().mean().backward()
    ...     print(steps, tuple(outputs.shape))
    slice(0, 4, None) (4, 2, 4)
    slice(4, 8, None) (4, 2, 4)
    slice(8, 10, None) (2, 2, 4)
    """
    k2 = k1 if k2 is None else k2
    if k1 < 1 or k2 < 1:
        raise ValueError(f"truncated BPTT expected k1 and k2 of at least 1, got k1={k1}, k2={k2}.")
    total, known = inputs.shape[dim], 0  # `state` is the state before step `known`
    for first in range(0, total, k1):
        stop = min(first + k1, total)
        begin = max(0, stop - k2)
        if known < begin:  # k2 < k1: these steps only move the state on
            with torch.no_grad():
                _, state = forward(inputs.narrow(dim, known, begin - known), state)
        next_begin = max(0, min(stop + k1, total) - k2)
        known = min(max(next_begin, begin), stop)
        outputs, state = window(forward, inputs.narrow(dim, begin, stop - begin), state, advance=known - begin, dim=dim)
        new = max(begin, first)
        yield slice(new, stop), outputs.narrow(dim, new - begin, stop - new), state
