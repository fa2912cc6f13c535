"""Single steps by the compiled cells (`csrc/cell.hpp`), for loops that somebody writes over a cell of their own.

Backwards, each step gives the gradients of its input and state at once. Those of the weights wait until the backward pass
has come through all steps: dW = sum over t of dgates_t^T x_t is then one product of many rows, where a product for each step
would write all of dW every time, and read it again to add it up (at B = 1, H = 1024 that is most of the time).
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES

from . import context, library, saved, sequence

_POINTERS = [
    *("x", "h", "c", "w_ih", "w_hh", "b_ih", "b_hh"),
    *("h_out", "c_out", "gates", "d_h", "d_c", "dx", "dh", "dc", "dgates"),
]
_pack = struct.Struct(f"=2i3q{len(_POINTERS)}q").pack  # a third of the time of filling a structure
_DTYPE = torch.float32
_BY_TORCH = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}


class _Args(ctypes.Structure):
    c_name = "unrolled_cell_args"
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("mode", "threads")),
        *((name, ctypes.c_int64) for name in "BIH"),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


def _addresses(tensors: tuple[Tensor | None, ...]) -> list[int] | None:
    """Where they lie, 0 for None; None for the whole unless all are contiguous float32 in the CPU's memory."""
    found = []
    for t in tensors:
        if t is None:
            found.append(0)
        elif (
            type(t) in context.PLAIN  # as `context.in_memory`, whose call would be a tenth of a small step
            and t.dtype is _DTYPE
            and t.is_cpu
            and t.layout is torch.strided
            and not t.is_neg()
            and t.is_contiguous()
            and 4 * (t.storage_offset() + t.numel()) <= t.untyped_storage().nbytes()  # as `context.freed`
            and (address := t.data_ptr())
        ):
            found.append(address)
        else:
            return None
    return found


def _fit(mode: str, x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> bool:
    """Whether sizes are those of one step: x (B, I), h and c (B, H), w_ih (G*H, I), w_hh (G*H, H), biases (G*H,)."""
    if x.dim() != 2 or w_hh.dim() != 2:
        return False
    state, (rows, H), (B, width) = h.shape, w_hh.shape, x.shape
    return (
        rows == MODES[mode].gates * H
        and state == (B, H)
        and (mode != "LSTM" if c is None else c.shape == state)
        and w_ih.shape == (rows, width)
        and (b_ih is None or b_ih.shape == (rows,))
        and (b_hh is None or b_hh.shape == (rows,))
    )


def _run(name: str, mode: str, x: Tensor, h: Tensor, addresses: list[int]) -> None:
    """`addresses` are `_POINTERS` from the first on; the rest is null."""
    sizes = x.shape[0], x.shape[1], h.shape[1]
    nulls = (0,) * (len(_POINTERS) - len(addresses))
    if library.function(f"cell_{name}", _Args, ctypes.c_char_p)(
        _pack(MODES[mode].number, torch.get_num_threads(), *sizes, *addresses, *nulls)
    ):
        raise MemoryError("no memory for a step")


def step(mode: str, x: Tensor, h: Tensor | None, c: Tensor | None, weights: tuple) -> tuple[Tensor, Tensor | None] | None:
    """(h, c) after the step, c None but for the LSTM; None for the whole where PyTorch has to do it.

    That is where somebody watches (`context.watched`), under autocast, for what is not float32 in the CPU's memory or does
    not fit together, and where weights of which gradients are wanted are computed from others, or one is frozen.

    Args:
        x: (B, I)
        h: (B, H); None is zeros, here and for c.
        c: (B, H), of the LSTM.
        weights: w_ih (G*H, I), w_hh (G*H, H), and b_ih and b_hh (G*H,) or None.
    """
    if context.watched(()) or not library.available() or torch.is_autocast_enabled("cpu"):
        return None
    w_ih, w_hh, b_ih, b_hh = weights
    if h is None:
        h = x.new_zeros(*x.shape[:-1], *w_hh.shape[1:])
        c = h if mode == "LSTM" else None
    x, h, c = x.contiguous(), h.contiguous(), None if c is None else c.contiguous()
    given = x, h, c, w_ih, w_hh, b_ih, b_hh
    addresses = _addresses(given)
    if addresses is None or not _fit(mode, *given):
        return None
    if not torch.is_grad_enabled() or not (w_ih.requires_grad or any(t is not None and t.requires_grad for t in given)):
        h_out, c_out = torch.empty_like(h), None if c is None else torch.empty_like(c)
        addresses += (h_out.data_ptr(), 0 if c_out is None else c_out.data_ptr())
        _run("forward", mode, x, h, addresses)
        return h_out, c_out
    if not (w_ih.requires_grad and w_hh.requires_grad and w_ih.is_leaf and w_hh.is_leaf):
        return None
    if not ((b_ih is None or b_ih.is_leaf) and (b_hh is None or b_hh.is_leaf)):
        return None
    found: Any = _Step.apply(mode, addresses, *given, _of_all_steps(mode, weights, addresses))
    return found if mode == "LSTM" else (found, None)


# ------------------------------------------------------------------------------------------------------------ autograd


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mode: str, addresses: list[int], *inputs: Any) -> Any:  # with setup_context, apply is slower
        *given, ctx.all_steps = inputs
        x, h, c = given[:3]
        h_out, c_out = torch.empty_like(h), None if c is None else torch.empty_like(c)
        size = sequence.gates_size(mode, _DTYPE, 1, *h.shape)
        gates = torch.empty(size, dtype=_DTYPE, device="cpu") if size else None
        _run("forward", mode, x, h, addresses + [0 if t is None else t.data_ptr() for t in (h_out, c_out, gates)])
        ctx.mode = mode
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, h_out if gates is None else gates)
        return h_out if c_out is None else (h_out, c_out)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> Any:
        *given, kept = ctx.saved_tensors
        mode, wanted, (x, h, c), all_steps = ctx.mode, ctx.needs_input_grad, given[:3], ctx.all_steps.grad_fn
        if all(d is None for d in incoming):
            return (None,) * 10
        addresses = None
        if not (torch.is_grad_enabled() or context.watched(incoming)):
            # All is asked again: there is no telling what was done to the weights' memory since.
            arriving = [None if d is None else d.contiguous() for d in incoming]
            addresses = _addresses((x, h, c, *all_steps.numbers, kept, *arriving))
        if addresses is None or not _fit(mode, x, h, c, *all_steps.numbers):
            return None, None, *_by_torch(mode, given, all_steps.numbers, incoming, wanted[2:9]), None
        *inputs, at_kept, at_h = addresses[:9]
        dx = torch.empty_like(x) if wanted[2] else None
        dh = torch.empty_like(h) if wanted[3] else None
        dc = None if c is None else torch.empty_like(c)
        dgates = h.new_empty(h.shape[0], max(1, MODES[mode].saved) * h.shape[1])
        results = [0 if t is None else t.data_ptr() for t in (dx, dh, dc, dgates)]
        h_out, gates = (0, at_kept) if MODES[mode].saved else (at_kept, 0)
        _run("backward", mode, x, h, [*inputs, h_out, 0, gates, at_h, 0 if c is None else addresses[9], *results])
        if torch._C._will_engine_execute_node(all_steps):
            passes, number = all_steps.passes, torch._C._current_graph_task_id()
            if (sums := passes.get(number)) is None:
                for other in [n for n, broken_off in passes.copy().items() if broken_off.first_step() is None]:
                    passes.pop(other, None)
                sums = passes[number] = _Sums(mode, weakref.ref(ctx))
            sums.add(dgates, x.detach(), h.detach())
        return None, None, dx, dh, dc if wanted[4] else None, None, None, None, None, None


def _by_torch(mode: str, given: list, numbers: tuple, incoming: tuple, wanted: tuple) -> list[Tensor | None]:
    """Every gradient by PyTorch's own step, run again: it can be differentiated further, transformed and watched."""
    with torch.enable_grad():
        given[3:] = [None if t is None else saved.with_numbers(t, n) for t, n in zip(given[3:], numbers, strict=True)]
        again: Any = [None if t is None else t.view_as(t) if t.requires_grad else t for t in given]  # without h's own past
        x, h, c, *weights = again
        after = torch.lstm_cell(x, (h, c), *weights) if mode == "LSTM" else (_BY_TORCH[mode](x, h, *weights),)  # type: ignore
    inputs = [t for t, wants in zip(again, wanted, strict=True) if wants]
    after, incoming = zip(*[(part, d) for part, d in zip(after, incoming, strict=True) if d is not None], strict=True)
    found = iter(torch.autograd.grad(after, inputs, incoming, create_graph=torch.is_grad_enabled(), allow_unused=True))
    return [next(found) if wants else None for wants in wanted]


# ------------------------------------------------------------------------------------------------- gradients of weights

_alive: weakref.WeakValueDictionary[tuple, Tensor] = weakref.WeakValueDictionary()


def _of_all_steps(mode: str, weights: tuple, addresses: list[int]) -> Tensor:
    """What stands in the graph for all steps with these weights: one for as long as a step that was given it lives.

    addresses are those of x, h, c and the weights: after `p.data = other` they are others.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    bias_wanted = b_ih is not None and b_ih.requires_grad, b_hh is not None and b_hh.requires_grad
    key = mode, id(w_ih), id(w_hh), id(b_ih), id(b_hh), *bias_wanted, *addresses[3:7]
    if (found := _alive.get(key)) is None:
        _alive[key] = found = _AllSteps.apply(mode, *weights)  # type: ignore[assignment]
    return found  # type: ignore[return-value]


class _AllSteps(torch.autograd.Function):
    """PyTorch runs its backward once in a pass, after those of all the steps that the pass comes through."""

    @staticmethod
    def forward(ctx: Any, mode: str, *weights: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.mode, ctx.weights = mode, weights  # kept, so that no others can have their ids, nor these their addresses
        ctx.numbers = tuple(None if t is None else t.detach() for t in weights)  # as `saved.aliases`
        ctx.passes = {}  # by the number of the backward pass: several may run at once, or one within another
        return torch.empty(0, dtype=_DTYPE, device="cpu")

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        sums = ctx.passes.pop(torch._C._current_graph_task_id(), None)
        found = (None,) * 4 if sums is None else sums.gradients()
        return None, *(d if wanted else None for d, wanted in zip(found, ctx.needs_input_grad[1:], strict=True))


class _Sums:
    """Gradients of the weights over the steps that one backward pass has come through."""

    ROWS = 2048
    """As many rows wait for one product: more would make it no faster, and keep their memory."""

    def __init__(self, mode: str, first_step: weakref.ref) -> None:
        self.first_step = first_step  # dead before the sums were fetched: an exception broke the pass off
        self.gates = MODES[mode].gates
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.rows = 0
        self.summed: list[Tensor] = []

    def add(self, dgates: Tensor, x: Tensor, h: Tensor) -> None:
        self.waiting.append((dgates, x, h))
        self.rows += len(x)
        if self.rows >= self.ROWS:
            self.multiply()

    def multiply(self) -> None:
        rows: Any = zip(*self.waiting, strict=True)
        d, x, h = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in rows)
        self.waiting, self.rows, H = [], 0, h.shape[1]
        sums, dw_hh = d.sum(0), h.new_empty(self.gates * H, H)
        if self.gates == 3:  # GRU: x is met by r z n, h by r z q
            torch.mm(d[:, : 2 * H].t(), h, out=dw_hh[: 2 * H])
            torch.mm(d[:, 3 * H :].t(), h, out=dw_hh[2 * H :])
            biases = [sums[: 3 * H], torch.cat([sums[: 2 * H], sums[3 * H :]])]
        else:
            torch.mm(d.t(), h, out=dw_hh)
            biases = [sums, sums.clone()]  # not one tensor: whoever writes to one gradient in place would change both
        parts = [d[:, : self.gates * H].t() @ x, dw_hh, *biases]
        self.summed = [old + new for old, new in zip(self.summed, parts, strict=True)] if self.summed else parts

    def gradients(self) -> list[Tensor]:
        """Of w_ih, w_hh, b_ih, b_hh."""
        if self.waiting:
            self.multiply()
        return self.summed
