"""What arrives at every state while a gradient is taken: ||dL/dh_t|| and ||dL/dc_t|| against the distance from the loss.

A loss of every step feeds every state, so the norms of its gradient do not fall off even where nothing is passed back. What is
recorded here besides them is therefore the gradient of the *last* step's loss alone: when the gradient of a layer's output
arrives in a backward pass, its part at each sequence's last step is taken back through the layer once more, and the kernels
give the norms of all steps as a by-product (`gradient_norms`).

    d            steps back from the last step whose output the loss depends on (a second direction: from the first)
    h(d), c(d)   ||dL/dh_t|| and ||dL/dc_t|| at t = last - d, means over the sequences that are longer than d
    left(d)      what of the gradient is left at distance d: c(d) / c(0) for the LSTM, else h(d) / h(0)

Cells that are stepped one by one (`unrolled.LSTMCell`, and layers called with one step at a time) are recorded by hooks on
their states. There the loss of all steps is what is seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from unrolled.cell_layers import ProjectedStep
from unrolled.layers import Recurrent

GONE = 0.01
"""The share of the gradient below which a step might as well not be there."""
EXPLODED = 100.0
"""As many times what it was at the loss: a gradient that has grown so explodes."""
_LOWEST, _HIGHEST = 1e-30, 1e18
"""Beyond these, norms are rounded to nothing on the way, or their squares have no room in float32: no rate is read off them."""


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
    """Whether that state is what the call before came to, with its graph."""
    cut: bool
    """Whether sequences may begin or end inside it: there the norms are exactly zero."""
    norms: Tensor
    """(L*D, 2, T, B), filled by backward."""
    output: Tensor | None = None
    """(T, B, D*H); held until its gradient has come."""
    last_step: Tensor | None = None
    """Of the last step's loss, (L*D, 2, T, B)."""
    reached: bool = False
    """Whether the loss depends on its output, besides its last state."""
    end: Tensor | None = None
    """h after it."""


@dataclass(eq=False)
class _Watched:
    """A module whose calls are recorded."""

    name: str
    layer: Any
    calls: list[_Call] = field(default_factory=list)
    running: _Call | None = None


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
            one.calls.clear()
            if isinstance(one.layer, Recurrent):
                self._handles.append(one.layer.register_forward_pre_hook(partial(self._before, one), with_kwargs=True))
                self._handles.append(one.layer.register_forward_hook(partial(self._after, one)))
            else:
                self._handles.append(one.layer.register_forward_hook(partial(self._stepped, one)))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def flows(self) -> list[Flow]:
        """Of every layer and direction that a gradient arrived at; what was recorded is let go."""
        found = []
        for one in self._watched:
            for call in one.calls:
                call.output = None  # whose graph has a hook that knows the call: a circle that Python does not see
            found += _flows(one)
            one.calls.clear()
        return found

    def _before(self, one: _Watched, layer: Recurrent, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Give a call a tensor for the norms, and a state before the first step that a gradient can be asked of."""
        x, one.running = args[0] if args else None, None
        if not torch.is_grad_enabled() or not isinstance(x, Tensor) or kwargs.get("gradient_norms") is not None:
            return None
        if x.dim() + (not x.is_floating_point()) == 2:  # one sequence without a batch axis
            return None
        hx = args[1] if len(args) > 1 else kwargs.pop("hx", None)
        steps, batch = x.shape[:2][::-1] if layer.batch_first else x.shape[:2]
        norms = torch.zeros(layer.num_layers * layer.num_directions, 2, steps, batch, device=x.device)
        hx, start = _observable(layer, hx, batch, x.device)
        cut = kwargs.get("resets") is not None or kwargs.get("lengths") is not None
        one.running = _Call(start, _goes_on(one.calls, start), cut, norms)
        one.calls.append(one.running)
        return (x, hx), {**kwargs, "gradient_norms": norms}

    def _after(self, one: _Watched, layer: Recurrent, args: tuple, result: tuple[Tensor, Any]) -> None:
        call, one.running = one.running, None
        if call is None or not result[0].requires_grad:
            return
        call.end = (result[1][0] if isinstance(result[1], tuple) else result[1]).detach()
        call.output = result[0]
        result[0].register_hook(partial(self._arrived, one, call))

    def _arrived(self, one: _Watched, call: _Call, gradient: Tensor | None) -> None:
        """The gradient of a call's output is here: take its last step's part back through the layer by itself."""
        output, call.output = call.output, None
        if output is None or gradient is None:  # another backward pass, or our own; or only its last state is used
            return
        layer, calls = one.layer, _chain_of(one.calls, call)
        by_time = gradient.transpose(0, 1) if layer.batch_first else gradient  # (T, B, D*H)
        parts = by_time.unflatten(2, (layer.num_directions, -1))  # (T, B, D, H)
        later = any(other.reached for other in calls[calls.index(call) + 1 :])
        call.reached = True
        if not self._last_step or later or call.norms.shape[2] == 1:
            return
        calls = calls[: calls.index(call) + 1]
        begin: Any = calls[0].start
        kept = [torch.zeros_like(each.norms) for each in calls]
        columns = torch.arange(parts.shape[1], device=parts.device)
        for direction in range(layer.num_directions):
            source = _source(parts[:, :, direction].abs().amax(2) > 0, direction == 1)
            alone = torch.zeros_like(parts)
            alone[source, columns, direction] = parts[source, columns, direction]
            alone = alone.flatten(2)
            alone = alone.transpose(0, 1) if layer.batch_first else alone
            torch.autograd.grad(output, begin, alone, retain_graph=True, allow_unused=True)
            for own, each in zip(kept, calls, strict=True):
                own[direction :: layer.num_directions] = each.norms[direction :: layer.num_directions]
        for own, each in zip(kept, calls, strict=True):
            each.last_step = own

    def _stepped(self, one: _Watched, cell: nn.Module, args: tuple, result: Any) -> None:
        """A cell's step: note the norm of what arrives at its h."""
        parts = result if isinstance(result, tuple) else (result,)
        if not parts[0].requires_grad or parts[0].dim() != 2:
            return
        state = args[1] if len(args) > 1 else None
        start = state[0] if isinstance(state, tuple) else state
        norms = torch.zeros(1, 2, 1, len(parts[0]), device=parts[0].device)
        call = _Call(None, _goes_on(one.calls, start), False, norms, end=parts[0].detach())
        one.calls.append(call)
        parts[0].register_hook(partial(_note, call))


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
            return None, layer.learned()[0]
        rows, w_hh = layer.num_layers * layer.num_directions, layer.layer_weights()[0].cell.w_hh
        hx = torch.zeros(rows, batch, w_hh.shape[1], device=device, dtype=w_hh.dtype)
        hx = (hx, torch.zeros(rows, batch, layer.hidden_size, device=device, dtype=w_hh.dtype)) if layer.mode == "LSTM" else hx
    h, *c = hx if isinstance(hx, (tuple, list)) else (hx,)
    h = h if h.requires_grad else h.detach().requires_grad_()
    return ((h, *c) if c else h), h


def _goes_on(calls: list[_Call], start: Tensor | None) -> bool:
    """Whether a call that begins from this state goes on where the last one ended, and so does its gradient."""
    end = calls[-1].end if calls else None
    return start is not None and start.grad_fn is not None and end is not None and torch.equal(start, end)


def _chain_of(calls: list[_Call], call: _Call) -> list[_Call]:
    return next(chain for chain in _chains(calls) if call in chain)


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
    everything = torch.cat([call.norms[row] for call in calls], 1).double()  # (2, T, B)
    apart = [call.last_step[row] for call in calls if call.last_step is not None]
    norms = torch.cat(apart, 1).double() if apart else everything
    stepped = all(call.norms.shape[2] == 1 for call in calls)
    alone = bool(apart) or (not stepped and not any(call.reached for call in calls))  # it may enter by the last state only
    source = _source(norms[0] > 0, reverse)  # (B,)
    distance = torch.arange(norms.shape[1], device=norms.device).unsqueeze(1)
    steps = source + distance if reverse else source - distance  # (T, B)
    inside = (steps >= 0) & (steps < norms.shape[1])
    steps = steps.clamp(0, norms.shape[1] - 1)
    h, c, whole = (part.gather(0, steps) for part in (norms[0], norms[1], everything[0]))
    carried = c if lstm else h
    inside &= (carried[0] > 0) & ((h > 0) | (not any(call.cut for call in calls)))
    if not inside.any():
        return None
    columns = h, c, whole, carried[:1].expand_as(h), torch.ones_like(h)
    return _Part(torch.stack([(column * inside).sum(1) for column in columns]).cpu(), alone)
