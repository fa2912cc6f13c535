"""What arrives at every state while a gradient is taken: ||dL/dh_t|| and ||dL/dc_t|| against the distance from the loss.

A loss of every step feeds every state, so the norms of its gradient do not fall off even where nothing is passed back. What is
recorded here besides them is therefore the gradient of the *last* step's loss alone: when the gradients of a layer's output and
last state arrive in a backward pass, their part at each sequence's last step is taken back through the layer once more, and the
kernels give the norms of all steps as a by-product (`gradient_norms`).

    d            steps back from the last step whose output the loss depends on. A second direction goes back towards the
                 sequence's end: there d counts from the first such step, whose loss alone it is
    h(d), c(d)   ||dL/dh_t|| and ||dL/dc_t|| at t = last - d, means over the sequences that are longer than d
    left(d)      what of the gradient is left at distance d: c(d) / c(0) for the LSTM, else h(d) / h(0)

Cells that are stepped one by one (`unrolled.LSTMCell`, and layers called with one step at a time) are recorded by hooks on
their states. There the loss of all steps is what is seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, register_multi_grad_hook
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from unrolled.cell_layers import ProjectedStep
from unrolled.kernels import context
from unrolled.layers import Recurrent

GONE = 0.01
"""The share of the gradient below which a step might as well not be there."""
EXPLODED = 100.0
"""As many times what it was at the loss: a gradient that has grown so explodes."""
_LOWEST, _HIGHEST = 1e-30, 1e18
"""Beyond these, norms are rounded to nothing on the way, or their squares have no room in float32: no rate is read off them."""
_BETWEEN = 300
"""Nodes of the graph that are looked through, at most, for the way from one call's state to the next one's."""


@dataclass(frozen=True)
class Flow:
    """What arrived at the states of one layer in one direction. Entry d of a list is d steps back from the loss."""

    name: str
    """Where the layer is in the model, and which of its layers: `layers.l0`, `encoder.l1_reverse`; as torch.nn's weights."""
    h: list[float]
    """||dL/dh_t||."""
    c: list[float]
    """||dL/dc_t|| of an LSTM over sequences; else empty."""
    left: list[float]
    """The share of the gradient that is left; entry 0 is 1."""
    of_last_step: bool
    """Whether L is the loss of the last step alone, or (of cells stepped one by one) that of all steps."""
    everything: list[float]
    """||dL/dh_t|| of the whole loss, as training sees it."""

    @property
    def reach(self) -> int | None:
        """The distance from which on less than `GONE` is left; None where more is left as far back as was looked.

        >>> Flow("l0", [1.0, 0.1, 0.001, 0.0001], [], [1.0, 0.1, 0.001, 0.0001], True, []).reach
        2
        """
        beyond = len(self.left)
        while beyond and self.left[beyond - 1] < GONE:
            beyond -= 1
        return beyond if beyond < len(self.left) else None

    @property
    def factor(self) -> float | None:
        """By what the gradient is multiplied per step back: exp of the least-squares slope of log left(d); None of one step.

        >>> round(Flow("l0", [4.0, 2.0, 1.0], [], [1.0, 0.5, 0.25], True, []).factor, 6)
        0.5
        """
        points = [(d, math.log(value)) for d, value in enumerate(self.left) if _LOWEST < value < _HIGHEST]
        if len(points) < 2:
            return None
        mean_d, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
        across = sum((d - mean_d) * (y - mean_y) for d, y in points)
        return math.exp(across / sum((d - mean_d) ** 2 for d, _ in points))

    def within(self, steps: int) -> Flow:
        """The same, no further back than so many steps."""
        lists = {name: getattr(self, name)[:steps] for name in ("h", "c", "left", "everything")}
        return dataclasses.replace(self, **lists)

    def numbers(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "reach": self.reach, "factor": self.factor}


@dataclass(eq=False)
class _Call:
    """One call of a layer, or one step of a cell."""

    start: Tensor | None
    """The state before it, of which a gradient can be asked; None for a cell's step."""
    chained: bool
    """Whether that state comes from what the call before came to, by a way that a gradient can go."""
    norms: Tensor
    """(L*D, 2, T, B), filled by backward."""
    lengths: Tensor | None = None
    """(B,) where sequences may end before T."""
    cut: bool = False
    """Whether sequences may begin or end inside it: there the norms are exactly zero."""
    results: list[GradientEdge] = field(default_factory=list)
    """Of the output and the last state's parts; held until their gradients have come."""
    hook: RemovableHandle | None = None
    """On these."""
    last_step: Tensor | None = None
    """Of the last step's loss, (L*D, 2, T, B)."""
    reached: bool = False
    """Whether the loss depends on it, and not by the call after it alone."""
    end: Any = None
    """The graph's node of h after it."""


@dataclass(eq=False)
class _Watched:
    """A module whose calls are recorded."""

    name: str
    layer: Any
    calls: list[_Call] = field(default_factory=list)
    running: _Call | None = None

    def let_go(self) -> None:
        """Of all calls. Each knows nodes of a graph whose hooks know the call: a circle that Python does not see."""
        for call in self.calls:
            call.results.clear()
            call.end = None
            if call.hook is not None:
                call.hook.remove()
        self.calls.clear()


class Recorder:
    """Within this context the recurrent layers of a model leave what arrives at their states when backward is called.

    It has to be called, or end, before the flows are asked for; it may be called outside. Weights' gradients are what they
    would be without.

    Args:
        model: any module; its `unrolled` layers and cells, and torch.nn's cells, are recorded.
        layer: the name of the only module to record; all when left out.
        last_step: whether to take the last step's loss back by itself, which costs a backward pass of the layers without
            their weights' gradients. Without it flows are of the loss of all steps.

    >>> import torch, unrolled
    >>> layer = unrolled.RNN(3, 4)
    >>> with Recorder(layer) as recorder:
    ...     layer(torch.randn(6, 2, 3))[0].square().sum().backward()
    >>> flow = recorder.flows()[0]
    >>> flow.name, len(flow.h), flow.left[0]
    ('l0', 6, 1.0)
    """

    def __init__(self, model: nn.Module, layer: str | None = None, last_step: bool = True) -> None:
        self._last_step = last_step
        modules = {name: module for name, module in model.named_modules() if layer is None or name == layer}
        self._watched = [_Watched(name, one) for name, one in modules.items() if is_recurrent(one)]
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        for one in self._watched:
            one.let_go()
            if isinstance(one.layer, Recurrent):
                self._handles.append(one.layer.register_forward_pre_hook(partial(self._before, one), with_kwargs=True))
                self._handles.append(one.layer.register_forward_hook(partial(self._after, one)))
            else:
                self._handles.append(one.layer.register_forward_hook(partial(self._stepped, one), with_kwargs=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if kind is not None:
            for one in self._watched:
                one.let_go()

    def flows(self) -> list[Flow]:
        """Of every layer and direction that a gradient arrived at; what was recorded is let go."""
        found = []
        for one in self._watched:
            found += _flows(one)
            one.let_go()
        return found

    def _before(self, one: _Watched, layer: Recurrent, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Give a call a tensor for the norms, and a state before the first step that a gradient can be asked of."""
        x, one.running = args[0] if args else kwargs.get("input"), None
        if not (self._handles and torch.is_grad_enabled() and isinstance(x, Tensor)):  # a copy keeps the hooks for good
            return None
        if kwargs.get("gradient_norms") is not None or context.transformed():  # torch.func's transforms
            return None
        if x.dim() + (not x.is_floating_point()) == 2:  # one sequence without a batch axis
            return None
        kwargs = {name: value for name, value in kwargs.items() if name != "input"}
        hx = args[1] if len(args) > 1 else kwargs.pop("hx", None)
        steps, batch = x.shape[:2][::-1] if layer.batch_first else x.shape[:2]
        norms = torch.zeros(layer.num_layers * layer.num_directions, 2, steps, batch, device=x.device)
        hx, start = _observable(layer, hx, batch, x.device)
        lengths = kwargs.get("lengths")
        ends = None if lengths is None else torch.as_tensor(lengths, device=x.device)
        cut = lengths is not None or kwargs.get("resets") is not None
        one.running = _Call(start, _goes_on(one.calls, start), norms, ends, cut)
        one.calls.append(one.running)
        return (x, hx), {**kwargs, "gradient_norms": norms}

    def _after(self, one: _Watched, layer: Recurrent, args: tuple, result: tuple[Tensor, Any]) -> Any:
        call, one.running = one.running, None
        if call is None or not result[0].requires_grad:
            return None
        output = result[0].clone() if result[0]._is_view() else result[0]  # writing to a view goes around its own node
        state = result[1] if isinstance(result[1], tuple) else (result[1],)
        call.end, several = state[0].grad_fn, [output, *state]
        call.results = [get_gradient_edge(part) for part in several]  # and no tensors: they may be written to
        call.hook = register_multi_grad_hook(several, partial(self._arrived, one, call))
        return output, result[1]

    def _arrived(self, one: _Watched, call: _Call, gradients: Sequence[Tensor | None]) -> None:
        """The gradients of a call's output and last state are here: take the last step's part back through the layer."""
        results, call.results = call.results, []
        if not results:  # another backward pass, or our own
            return
        layer, calls = one.layer, _chain_of(one.calls, call)
        after = calls[calls.index(call) + 1 :]
        of_output, *of_state = gradients
        if after and not after[0].results:  # a gradient has come to it: the state's is the next call's
            of_state = [None] * len(of_state)
        call.reached = any(part is not None and bool(part.any()) for part in (of_output, *of_state))
        if not call.reached or not self._last_step or any(other.reached for other in after) or call.norms.shape[2] == 1:
            return
        calls = calls[: calls.index(call) + 1]
        begin: Any = calls[0].start
        kept = [torch.zeros_like(each.norms) for each in calls]
        for direction in range(layer.num_directions):
            seeds, beyond = _of_last_step(layer, direction, call, of_output, of_state)
            there = [(edge, seed) for edge, seed in zip(results, seeds, strict=True) if seed is not None]
            edges, given = [edge for edge, _ in there], [seed for _, seed in there]
            torch.autograd.grad(edges, begin, given, retain_graph=True, allow_unused=True)
            for own, each in zip(kept, calls, strict=True):
                own[direction :: layer.num_directions] = each.norms[direction :: layer.num_directions]
            kept[-1][direction :: layer.num_directions].masked_fill_(beyond, 0)
        for own, each in zip(kept, calls, strict=True):
            each.last_step = own

    def _stepped(self, one: _Watched, cell: nn.Module, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        """A cell's step: note the norm of what arrives at its h."""
        h = result[0] if isinstance(result, tuple) else result
        if not self._handles or not h.requires_grad or h.dim() != 2 or context.transformed():
            return
        state = args[1] if len(args) > 1 else kwargs.get("hx")
        start = state[0] if isinstance(state, tuple) else state
        norms = torch.zeros(1, 2, 1, len(h), device=h.device)
        call = _Call(None, _goes_on(one.calls, start), norms, end=h.grad_fn)
        one.calls.append(call)
        h.register_hook(partial(_note, call))


def is_recurrent(module: nn.Module) -> bool:
    """Whether it is one of `unrolled`'s layers, or a cell of ours or torch.nn's, or a step of one."""
    return isinstance(module, (Recurrent, nn.RNNCellBase, ProjectedStep))


def _note(call: _Call, gradient: Tensor | None) -> None:
    if gradient is not None:
        call.norms[0, 0, 0] = gradient.detach().float().norm(dim=1)


def _observable(layer: Recurrent, hx: Any, batch: int, device: torch.device) -> tuple[Any, Tensor]:
    """The state as given, but with a gradient, and the part of it to ask for that."""
    if hx is None:
        if layer.learned_state:
            learned = layer.learned()
            if learned[0].requires_grad and learned[0].is_leaf:
                return None, learned[0]
            several = [part.unsqueeze(1).expand(-1, batch, -1) for part in learned]  # frozen, or made anew at each call
            return _observable(layer, tuple(several) if len(several) > 1 else several[0], batch, device)
        rows, w_hh = layer.num_layers * layer.num_directions, layer.layer_weights()[0].cell.w_hh
        hx = torch.zeros(rows, batch, w_hh.shape[1], device=device, dtype=w_hh.dtype)
        hx = (hx, torch.zeros(rows, batch, layer.hidden_size, device=device, dtype=w_hh.dtype)) if layer.mode == "LSTM" else hx
    h, *c = hx if isinstance(hx, (tuple, list)) else (hx,)
    h = h if h.requires_grad else h.detach().requires_grad_()
    return ((h, *c) if c else h), h


def _goes_on(calls: list[_Call], start: Tensor | None) -> bool:
    """Whether a gradient goes from the state that a call begins with to the one that the last call came to."""
    begin, end = None if start is None else start.grad_fn, calls[-1].end if calls else None
    if begin is None or end is None:
        return False
    seen, ahead = {begin}, deque([begin])
    while ahead and len(seen) < _BETWEEN:
        node = ahead.popleft()
        if node is end:
            return True
        further = {each for each, _ in node.next_functions if each is not None} - seen
        seen |= further
        ahead += further
    return end in ahead


def _chain_of(calls: list[_Call], call: _Call) -> list[_Call]:
    return next(chain for chain in _chains(calls) if call in chain)


def _of_last_step(
    layer: Recurrent, direction: int, call: _Call, of_output: Tensor | None, of_state: Sequence[Tensor | None]
) -> tuple[list[Tensor | None], Tensor]:
    """What arrives at the last step of each sequence, seen in one direction, of the gradients of output and state, else zero;
    and which steps lie beyond that (T, B): of several layers in two directions, the other one takes the gradient there.
    """
    steps, batch = call.norms.shape[2:]
    columns = torch.arange(batch, device=call.norms.device)
    times = torch.arange(steps, device=columns.device)[:, None]
    end = torch.full_like(columns, steps) if call.lengths is None else call.lengths
    end = torch.zeros_like(columns) if direction else (end - 1).clamp(min=0)
    rows = [None if part is None else _rows_of(direction, layer.num_directions, part) for part in of_state]
    by_state = torch.zeros_like(columns, dtype=torch.bool)
    for part in rows:
        by_state |= by_state if part is None else part.abs().amax((0, 2)) > 0
    source, alone = end, None
    if of_output is not None:
        by_time = of_output.transpose(0, 1) if layer.batch_first else of_output
        by_half = by_time.unflatten(2, (layer.num_directions, -1)).abs().amax(3) > 0  # (T, B, D)
        if call.lengths is not None:  # what arrives at padding goes nowhere
            by_half &= (times < call.lengths)[:, :, None]
        reached = torch.where(by_half[:, :, direction].any(0), by_half[:, :, direction], by_half.any(2))
        source = torch.where(by_state, end, _source(reached, direction == 1))
        alone = torch.zeros_like(by_time)
        alone[source, columns] = by_time[source, columns]
        alone = alone.transpose(0, 1) if layer.batch_first else alone
    return [alone, *rows], (times < source if direction else times > source)


def _rows_of(direction: int, directions: int, part: Tensor) -> Tensor:
    """A last state's gradient (L*D, B, H), zero but for the layers of one direction."""
    alone = torch.zeros_like(part)
    alone[direction::directions] = part[direction::directions]
    return alone


def _source(reached: Tensor, reverse: bool) -> Tensor:
    """reached (T, B) -> the step (B,) at which the loss stands: the last, or for a second direction the first."""
    place = (reached if reverse else reached.flip(0)).int().argmax(0)
    return place if reverse else reached.shape[0] - 1 - place


def _flows(one: _Watched) -> Iterator[Flow]:
    """What was recorded of a module, by distance, over all its calls."""
    layer, chains = one.layer, _chains(one.calls)
    lstm = getattr(layer, "mode", "") == "LSTM"  # and no cell, whose c's gradient autograd has but for the part through h_t
    for row, place in enumerate(places(layer)):
        parts = [part for calls in chains if (part := _by_distance(calls, row, place.endswith("_reverse"), lstm)) is not None]
        if not parts:
            continue
        longest = max(part.sums.shape[1] for part in parts)
        together = torch.stack([pad(part.sums, (0, longest - part.sums.shape[1])) for part in parts]).sum(0)
        h, c, everything, start, count = together
        seen = int((count > 0).sum())  # the distances that any sequence has
        yield Flow(
            ".".join(filter(None, (one.name, place))) or type(layer).__name__.lower(),
            _finite((h / count)[:seen]),
            _finite((c / count)[:seen]) if lstm else [],
            _finite(((c if lstm else h) / start)[:seen]),
            all(part.of_last_step for part in parts),
            _finite((everything / count)[:seen]),
        )


def _finite(values: Tensor) -> list[float]:
    """What has overflowed is the largest number of float32, in which the kernels note norms."""
    most = torch.finfo(torch.float32).max
    return values.nan_to_num(nan=most, posinf=most).tolist()


def places(layer: nn.Module) -> list[str]:
    """The layers and directions of a module as the names of its weights end: `l0`, `l0_reverse`; of a cell one, without a name.

    >>> import unrolled
    >>> places(unrolled.GRU(3, 4, bidirectional=True))
    ['l0', 'l0_reverse']
    """
    if not isinstance(layer, Recurrent):
        return [""]
    return [f"l{number}{end}" for number in range(layer.num_layers) for end in ("", "_reverse")[: layer.num_directions]]


class _Part(NamedTuple):
    """Of one layer and direction in one chain of calls."""

    sums: Tensor
    """By distance, over sequences that are longer: h, c, the whole loss's h, the start of what carries, how many (5, T)."""
    of_last_step: bool


def _chains(calls: list[_Call]) -> list[list[_Call]]:
    chains: list[list[_Call]] = []
    for call in calls:
        if call.chained:
            chains[-1].append(call)
        else:
            chains.append([call])
    return chains


def _by_distance(calls: list[_Call], row: int, reverse: bool, lstm: bool) -> _Part | None:
    """One layer and direction of a chain of calls; None where no gradient arrived."""
    calls = calls[::-1] if reverse else calls  # a second direction's state goes on from a call's first step
    everything = _in_time([call.norms[row] for call in calls])  # (2, T, B)
    apart = [call.last_step[row] for call in calls if call.last_step is not None]
    norms = _in_time(apart) if apart else everything
    stepped = all(call.norms.shape[2] == 1 for call in calls)
    alone = bool(apart) or (not stepped and not any(call.reached for call in calls))
    source = _source((norms > 0).any(0), reverse)  # (B,); it may be c alone that the loss reads
    distance = torch.arange(norms.shape[1], device=norms.device).unsqueeze(1)
    steps = source + distance if reverse else source - distance  # (T, B)
    inside = (steps >= 0) & (steps < norms.shape[1])
    steps = steps.clamp(0, norms.shape[1] - 1)
    h, c, whole = (part.gather(0, steps) for part in (norms[0], norms[1], everything[0]))
    carried = c if lstm else h
    inside &= (carried[0] > 0) & ((h + c > 0) | (not any(call.cut for call in calls)))
    if not inside.any():
        return None
    columns = h, c, whole, carried[:1].expand_as(h), torch.ones_like(h)
    return _Part(torch.stack([(column * inside).sum(1) for column in columns]).cpu(), alone)


def _in_time(several: list[Tensor]) -> Tensor:
    """Norms of call after call, each (2, T, B) -> (2, T's sum, B); where B is not always the same, those of all B together."""
    if len({each.shape[2] for each in several}) > 1:
        several = [each.norm(dim=2, keepdim=True) for each in several]
    return torch.cat(several, 1).double()
