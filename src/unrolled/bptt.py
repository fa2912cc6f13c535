"""Training through time: how far back a gradient goes, and what is carried between segments of a long sequence.

Backpropagation through time (BPTT; Werbos 1990) unrolls the recurrence and differentiates it. *Full* BPTT goes back to
the first step. *Truncated* BPTT(k1, k2) (Williams and Peng 1990, there BPTT(h; h')) updates every k1 steps and goes
back k2: the state, carried on, brings the whole past forward, while its gradient is truncated. *Exact* BPTT is full BPTT
within a stated memory: it keeps few states and recomputes the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import get_device_states, set_device_states

from unrolled.errors import ConfigError
from unrolled.memory import LiveBytes

Carry = TypeVar("Carry")
Forward = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""`(inputs (T, ...), state) -> (outputs (T, ...), state)`: a layer, or a model around one."""


def detach(state: Carry) -> Carry:
    """The same state, tensor or nest of tuples, lists and None, detached from the graph it was computed in.

    >>> h = torch.ones(2, requires_grad=True) * 3
    >>> detach((h, None))[0].requires_grad
    False
    """
    return _each(state, Tensor.detach)


def _each(state: Carry, change: Callable[[Tensor], Tensor]) -> Carry:
    """The same nest with every tensor changed."""
    if state is None:
        return state
    if isinstance(state, Tensor):
        return change(state)  # type: ignore[return-value]
    parts = [_each(part, change) for part in state]  # type: ignore[attr-defined]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)  # type: ignore[call-arg]


def window(forward: Forward, inputs: Tensor, state: Any, *, advance: int, dim: int = 0) -> tuple[Tensor, Any]:
    """Run all of `inputs` from `state`; return the outputs of every step and the state, detached, after the first `advance`.

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
    outputs = []
    if advance > 0:
        output, state = forward(inputs.narrow(dim, 0, advance), state)
        outputs, begin = [output], detach(state)
    output, _ = forward(inputs.narrow(dim, advance, steps - advance), state)
    return torch.cat([*outputs, output], dim=dim), begin


def truncated(
    forward: Forward, inputs: Tensor, state: Any = None, *, k1: int, k2: int | None = None, dim: int = 0
) -> Iterator[tuple[slice, Tensor, Any]]:
    """Truncated BPTT(k1, k2) over a sequence: yields `(steps, outputs, state)` for every k1 new steps.

    `outputs` are those of the slice `steps`; their gradient reaches k2 steps back from the end of the slice. Take the loss,
    call `backward()` and step the optimizer before asking for the next. With k2 = k1 (the default) the sequence is split into
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


class Plan(NamedTuple):
    """How `exact` splits a sequence, and what that costs.

    segment: steps that are differentiated at a time.
    kept: the most states kept at once, besides the first one and the one at work.
    recomputed: how often the average step is run without a graph, on top of once with it; for full BPTT that is 0.
    memory: bytes expected to be in use at once.
    """

    segment: int
    kept: int
    recomputed: float
    memory: int


class Exact(NamedTuple):
    """What `exact` returns, all of it detached: the summed loss, the state after the last step, the plan."""

    loss: Tensor
    state: Any
    plan: Plan


def exact(
    forward: Callable[[Any, Any], tuple[Any, Any]],
    inputs: Tensor | Callable[[slice], Any],
    state: Any = None,
    *,
    loss: Callable[[Any, slice], Tensor],
    memory: int,
    steps: int | None = None,
    dim: int = 0,
) -> Exact:
    """Full BPTT over a sequence of any length within `memory` bytes: the gradients are full BPTT's, to rounding.

    Runs forwards keeping only some states; then, from the end, runs each segment again from the nearest kept state,
    differentiates it, and hands the gradient of its first state to the segment before (Gruslys et al. 2016,
    "Memory-efficient backpropagation through time"). Where the budget has room for a state per segment, each step is
    run twice; where it has not, the kept states are placed as in "revolve" (Griewank and Walther 2000), which is the
    fewest runs possible. Random numbers are the same each time a segment is run, and with them dropout.

    Gradients are added to the `.grad` of whatever requires them, as `backward()` adds them: parameters, the initial
    state (or what it was computed from), and `inputs` when it is a tensor.

    Args:
        forward: `(inputs of a segment, state) -> (outputs, state)`, a layer or a model around one. It runs more than once
            on each segment, so its answer may depend on nothing but its two arguments and random numbers. The state is a
            tensor or a nest of tuples and lists of tensors and None.
        inputs: the sequence, split along `dim`; or a function from a slice of steps to their inputs, for data on disk or
            inputs of several tensors. Then `steps` says how many steps there are.
        state: before the first step.
        loss: `(outputs, steps) -> scalar`, the loss of a slice of steps given their outputs. These are summed; for a
            mean, divide by the number of steps. Besides once for each segment it is called on the first few steps, to
            measure.
        memory: the most bytes of tensors in use at once on behalf of this call: kept states, a segment's graph, loss
            and gradients. Parameters, their `.grad`, a tensor given as `inputs` and its `.grad` come on top. What steps
            need is measured on the first of them (`unrolled.memory.LiveBytes` says what counts).

    Raises:
        ConfigError: `memory` is too little for one step; the text says the least that works.
        ValueError: no steps; or `steps` missing where `inputs` is a function, or given where it is a tensor.

    >>> import torch, unrolled
    >>> lstm, x = unrolled.LSTM(3, 4), torch.randn(1000, 2, 3)
    >>> result = exact(lstm, x, loss=lambda outputs, steps: outputs.square().sum() / 1000, memory=100_000)
    >>> full = torch.autograd.grad(lstm(x)[0].square().sum() / 1000, list(lstm.parameters()))
    >>> all(torch.allclose(w.grad, want, atol=1e-5) for w, want in zip(lstm.parameters(), full))
    True
    >>> result.plan.segment < 100, result.plan.memory <= 100_000
    (True, True)
    """
    total = _count_steps(inputs, steps, dim)
    sequence = _Sequence(forward, inputs, state, loss, dim)
    plan = _plan(sequence, total, int(memory))
    segments = [slice(first, min(first + plan.segment, total)) for first in range(0, total, plan.segment)]
    kept = [(0, detach(state), sequence.random_state())]  # (segment, state before it, random numbers there)
    end, summed, gradients, after = len(segments), torch.zeros(()), None, None  # all from `end` on is differentiated
    while end > 0:
        at, now, random = kept[-1]
        sequence.set_random_state(random)
        while at < end - 1:
            free = plan.kept + 1 - len(kept)
            onwards = at + _stride(end - at, free)
            for segment in segments[at:onwards]:
                now = sequence.advance(segment, now)
            at = onwards
            if free > 0:
                kept.append((at, now, sequence.random_state()))
        value, final, gradients = sequence.differentiate(segments[at], now, gradients)
        summed = value + summed.to(value)
        if after is None:
            after = _each(final, torch.clone), sequence.random_state()  # the sequence's own end
        del now, final
        if kept[-1][0] == at:
            kept.pop()
        end = at
    assert after is not None
    final, random = after
    sequence.set_random_state(random)  # as if the whole had been run once
    sequence.hand_back(gradients)
    return Exact(summed, final, plan)


def _count_steps(inputs: Any, steps: int | None, dim: int) -> int:
    if isinstance(inputs, Tensor) == (steps is not None):
        raise ValueError(
            "exact BPTT expected steps, the number of steps, when inputs is a function and only then, "
            f"got inputs of type {type(inputs).__name__} and steps={steps}."
        )
    total = inputs.shape[dim] if steps is None else steps
    if total < 1:
        raise ValueError(f"exact BPTT expected at least one step, got {total}.")
    return total


class _Sequence:
    """The sequence and the function over it: a segment can be run, differentiated, or measured."""

    def __init__(self, forward: Any, inputs: Any, state: Any, loss: Any, dim: int) -> None:
        self.forward, self.inputs, self.state, self.loss, self.dim = forward, inputs, state, loss, dim
        self.input_gradient: Tensor | None = None
        self.weights: list[Tensor] | None = None  # what a step's gradient goes to, besides its inputs and state
        self.devices = _tensors((self._inputs(slice(0, 1)), state))  # random numbers are drawn where these are

    def _inputs(self, steps: slice) -> Any:
        if not isinstance(self.inputs, Tensor):
            return self.inputs(steps)
        inputs = self.inputs.detach().narrow(self.dim, steps.start, steps.stop - steps.start)
        return inputs.requires_grad_(self.inputs.requires_grad)

    @torch.no_grad()
    def advance(self, steps: slice, state: Any) -> Any:
        """The state after these steps, in memory of its own: a view would keep all the outputs it is part of."""
        return _each(self.forward(self._inputs(steps), state)[1], torch.clone)

    def differentiate(
        self, steps: slice, state: Any, gradients: list[Tensor | None] | None
    ) -> tuple[Tensor, Any, list[Tensor | None]]:
        """Backward through these steps: (loss, state after them, gradients of the tensors of the state before them).

        `gradients` are those that later steps have for the state in between; None at the sequence's end.
        """
        inputs, state, value, final = self._graph(steps, state)
        ends, seeds = _ends(value, final, gradients)
        if ends:
            torch.autograd.backward(ends, seeds)
        if isinstance(self.inputs, Tensor) and inputs.grad is not None:
            if self.input_gradient is None:
                self.input_gradient = torch.zeros_like(self.inputs)
            self.input_gradient.narrow(self.dim, steps.start, steps.stop - steps.start).copy_(inputs.grad)
        return value.detach(), detach(final), [leaf.grad for leaf in _tensors(state)]

    def _graph(self, steps: slice, state: Any) -> tuple[Any, Any, Tensor, Any]:
        inputs = self._inputs(steps)
        state = _each(state, lambda part: part.detach().requires_grad_(part.is_floating_point()))
        torch.clear_autocast_cache()  # a cast of weights cached while `advance` ran would have no graph
        with torch.enable_grad():
            outputs, final = self.forward(inputs, state)
            value = torch.as_tensor(self.loss(outputs, steps))
        return inputs, state, value, final

    def hand_back(self, gradients: list[Tensor | None] | None) -> None:
        """Give the gradients of the initial state and the inputs to those that require them."""
        pairs = list(zip(_tensors(self.state), gradients or [], strict=True))
        pairs += [(self.inputs, self.input_gradient)] if isinstance(self.inputs, Tensor) else []
        pairs = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad and gradient is not None]
        if pairs:
            torch.autograd.backward(*([*column] for column in zip(*pairs, strict=True)))

    def measure(self, count: int) -> tuple[int, int]:
        """(bytes needed to run and differentiate the first `count` steps, bytes of a kept state)."""
        random, steps = self.random_state(), slice(0, count)
        with LiveBytes() as bytes:
            state = self.advance(steps, self.state)
            inputs, begin, value, final = self._graph(steps, state)
            ends, seeds = _ends(value, final, [torch.zeros_like(part) for part in _tensors(final)])
            own = [part for part in _tensors((inputs, begin)) if part.requires_grad]
            if self.weights is None:
                self.weights = [leaf for leaf in _leaves_of(ends) if all(leaf is not part for part in own)]
            if ends and (own or self.weights):  # into new tensors, so that no .grad changes
                torch.autograd.grad(ends, [*self.weights, *own], seeds, allow_unused=True)
        del inputs, begin, value, final, ends, seeds, own
        self.set_random_state(random)
        kept = sum(part.nbytes for part in _tensors((state, random)))
        return bytes.peak + kept, kept  # the sequence's last state is there all the time

    def random_state(self) -> tuple[Tensor, tuple[Any, Any]]:
        return torch.get_rng_state(), get_device_states(*self.devices)

    def set_random_state(self, random: tuple[Tensor, tuple[Any, Any]]) -> None:
        torch.set_rng_state(random[0])
        if random[1][0]:
            set_device_states(*random[1])


def _tensors(state: Any) -> list[Tensor]:
    return [part for part in tree_leaves(state) if isinstance(part, Tensor)]


def _ends(value: Tensor, final: Any, gradients: list[Tensor | None] | None) -> tuple[list[Tensor], list[Tensor | None]]:
    """Where a segment's backward pass starts: at its loss, and at its last state with what later steps say of it."""
    pairs: list[tuple[Tensor, Tensor | None]] = [(value, None)]
    if gradients is not None:
        parts = zip(_tensors(final), gradients, strict=True)
        pairs += [(part, gradient) for part, gradient in parts if gradient is not None]
    pairs = [pair for pair in pairs if pair[0].requires_grad]
    return [end for end, _ in pairs], [seed for _, seed in pairs]


def _leaves_of(ends: list[Tensor]) -> list[Tensor]:
    """The tensors whose `.grad` a backward pass from `ends` would fill.

    For the graph of one step: a deep one, of which Python has held nodes, overflows the stack when torch frees it.
    """
    seen, waiting, leaves = set(), [end.grad_fn for end in ends], []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves += [leaf] if (leaf := getattr(node, "variable", None)) is not None else []
        waiting += [following for following, _ in node.next_functions]
    return leaves


_CALL = 8  # what calling forward and loss costs on top of their steps, in steps of a small layer
_FEW = 32  # steps; with fewer, gradients of the weights and not activations may decide how much is needed


def _plan(sequence: _Sequence, total: int, memory: int) -> Plan:
    """The fastest plan, by what segments of growing length were measured to need, as far as the budget lets them grow."""
    most, kept_bytes = sequence.measure(1)
    if most > memory:
        raise ConfigError(
            f"exact BPTT expected memory of at least {most:,} bytes, what one step needs here, got {memory:,}. "
            f"The least is slow: with {kept_bytes:,} bytes more for each state kept, fewer steps are recomputed."
        )
    measured = {1: most}
    while True:
        plan, longest = _fastest(total, memory, kept_bytes, measured), max(measured)
        ahead = min(plan.segment, (2 if longest < _FEW else 4) * longest, max(_FEW, total // 32))
        if ahead <= longest:
            return plan
        measured[ahead] = sequence.measure(ahead)[0]


def _fastest(total: int, memory: int, kept_bytes: int, measured: dict[int, int]) -> Plan:
    """Of the plans that take up to 15% longer than the fastest, the one of least memory: long segments gain little."""
    plans, wanted = [], 1
    while wanted <= total:
        segment = -(-total // wanted)
        segments = -(-total // segment)
        room = memory - _need(segment, measured)
        if room >= 0:
            kept = min(segments - 1, room // kept_bytes)
            advanced = _advances(segments, kept)
            time = (advanced + 3 * segments) * (segment + _CALL)  # with a graph and back takes about three times as long
            plans.append((time, Plan(segment, kept, advanced * segment / total, memory - room + kept * kept_bytes)))
        more = max(wanted + 1, wanted * 21 // 20)
        wanted = total if wanted < total < more else more
    longest = 1.15 * min(time for time, _ in plans)
    return min((plan for time, plan in plans if time <= longest), key=lambda plan: plan.memory)


def _need(segment: int, measured: dict[int, int]) -> int:
    """Bytes for a segment, at most: where it is longer than what was measured, by the lower of two bounds.

    It needs no more than the shorter segments it can be split into need together. And once there are more than a few steps,
    bytes grow in proportion to them; a quarter is added because they may not quite do so yet.
    """
    longest = max(measured)
    if segment <= longest:
        return min((bytes for steps, bytes in measured.items() if steps >= segment > 0), default=0)
    in_parts = segment // longest * measured[longest] + _need(segment % longest, measured)
    if longest < _FEW:
        return in_parts
    before = max(steps for steps in measured if steps < longest)
    per_step = max(0.0, (measured[longest] - measured[before]) / (longest - before))
    return min(in_parts, math.ceil(measured[longest] + 1.25 * per_step * (segment - longest)))


def _advances(segments: int, free: int) -> int:
    """How many segments are run without a graph, at the least, to differentiate `segments` with room for `free` states.

    With c = free + 1, counting the first state, and r the smallest number with segments <= C(c + r, c), it is
    r * segments - C(c + r, c + 1) (Griewank and Walther 2000).

    >>> [_advances(10, free) for free in (0, 1, 2, 9)]
    [45, 20, 15, 9]
    """
    if free == 0:
        return segments * (segments - 1) // 2
    repeats = _repeats(segments, free)
    return repeats * segments - math.comb(free + 1 + repeats, free + 2)


def _stride(segments: int, free: int) -> int:
    """How many segments to run before the next state is kept, so that `_advances` holds."""
    if free == 0:
        return segments - 1
    repeats = _repeats(segments, free)
    least = math.comb(free + repeats - 1, free + 1)  # what one repetition fewer can do with all states
    return max(1, least, segments - math.comb(free + repeats, free))  # what as many can do with one state fewer


def _repeats(segments: int, free: int) -> int:
    repeats = 0
    while math.comb(free + 1 + repeats, free + 1) < segments:
        repeats += 1
    return repeats
