"""The CPU kernels as PyTorch operators, and `run`, the one function layers call.

`unrolled::sequence` runs one layer in one direction over a whole sequence, `unrolled::sequence_backward` is its
gradient. Both are functional: the gates saved by forward are only read, so backward may run twice. Differentiating
the backward goes through the definition (`plain.py`).
"""

# Operators take tensors or None by position, in the dispatcher's untyped way; `check` does at run time what types cannot.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import native, plain, recompute
from .linear import linear

_HIDDEN_ROWS = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_GATE_SLOTS = {"LSTM": 4, "GRU": 4}  # what the kernels save per hidden unit

_library = torch.library.Library("unrolled", "FRAGMENT")
_library.define(
    "sequence(Tensor? x, Tensor? ids, Tensor? table, Tensor? h0, Tensor? c0, Tensor? w_ih, Tensor w_hh, Tensor? b_ih,"
    " Tensor? b_hh, Tensor? lengths, Tensor? resets, Tensor? grad_norms,"
    " str mode, bool reverse, bool save, bool every_c, int segment=0)"
    " -> (Tensor output, Tensor cs, Tensor h_n, Tensor c_n, Tensor gates)"
)
_library.define(
    "sequence_backward(Tensor? d_out, Tensor? d_cs, Tensor? d_h_n, Tensor? d_c_n, Tensor? x, Tensor? ids,"
    " Tensor? table, Tensor? h0, Tensor? c0, Tensor? w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? lengths,"
    " Tensor? resets, Tensor output, Tensor cs, Tensor gates, str mode, bool reverse, bool[] needed, bool norms,"
    " int segment=0)"
    " -> (Tensor dx, Tensor d_table, Tensor dh0, Tensor dc0, Tensor dw_ih, Tensor dw_hh, Tensor db_ih, Tensor db_hh,"
    " Tensor norms)"
)
# The inputs that have gradients, in the order of `needed` and of backward's results.
_DIFFERENTIABLE = ("x", "table", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")


# ----------------------------------------------------------------------------------------------------------- checks


def _shape(t: Tensor) -> str:
    return f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')} on {t.device}"


def _expect(mode: str, name: str, t: Tensor | None, shape: tuple, dtype: torch.dtype, device: torch.device) -> None:
    if t is None or (t.shape == shape and t.dtype == dtype and t.device == device):
        return
    if t.device != device:
        raise ValueError(f"{mode} expected {name} on {device}, where the weights are, got {_shape(t)}")
    if t.dtype != dtype:
        raise ValueError(f"{mode} expected {name} of {dtype}, the dtype of the weights, got {_shape(t)}")
    if tuple(t.shape) != shape:
        raise ValueError(f"{mode} expected {name} of shape {shape}, got {_shape(t)}")


def check(mode, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms=None) -> None:
    """Raise ValueError unless shapes, dtypes and devices agree. Reads no values."""
    if mode not in _HIDDEN_ROWS:
        raise ValueError(f"expected mode to be one of {', '.join(_HIDDEN_ROWS)}, got {mode!r}")
    if w_hh.dim() != 2:
        raise ValueError(f"{mode} expected w_hh of shape (G*H, H), got {_shape(w_hh)}")
    H, device, dtype = w_hh.shape[1], w_hh.device, w_hh.dtype
    rows = _HIDDEN_ROWS[mode] * H
    _expect(mode, "w_hh", w_hh, (rows, H), dtype, device)
    if x is not None:
        if x.dim() != 3:
            raise ValueError(f"{mode} expected x of shape (T, B, I), got {_shape(x)}")
        if w_ih is None:
            raise ValueError(f"{mode} expected w_ih beside x, got None")
        T, B, width = x.shape
        _expect(mode, "x", x, (T, B, width), dtype, device)
        _expect(mode, "w_ih", w_ih, (rows, width), dtype, device)
        _expect(mode, "b_ih", b_ih, (rows,), dtype, device)
    else:
        if ids is None or table is None:
            raise ValueError(f"{mode} expected either x, or ids with a table, got neither")
        if ids.dim() != 2 or ids.dtype != torch.int64 or ids.device != device:
            raise ValueError(f"{mode} expected ids of shape (T, B), int64 on {device}, got {_shape(ids)}")
        T, B = ids.shape
        if table.dim() != 2 or table.shape[1] != rows:
            raise ValueError(f"{mode} expected table of shape (V, {rows}), got {_shape(table)}")
    _expect(mode, "b_hh", b_hh, (rows,), dtype, device)
    _expect(mode, "h0", h0, (B, H), dtype, device)
    if c0 is not None:
        if mode != "LSTM":
            raise ValueError(f"{mode} has no cell state: expected c0 to be None, got {_shape(c0)}")
        _expect(mode, "c0", c0, (B, H), dtype, device)
    if lengths is not None:
        if lengths.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{mode} expected lengths of int64, got {_shape(lengths)}")
        _expect(mode, "lengths", lengths, (B,), lengths.dtype, device)
    if resets is not None:
        if resets.dtype not in (torch.bool, torch.uint8):
            raise ValueError(f"{mode} expected resets of bool, got {_shape(resets)}")
        _expect(mode, "resets", resets, (T, B), resets.dtype, device)
    if grad_norms is not None:
        _expect(mode, "grad_norms", grad_norms, (2, T, B), torch.float32, device)


def check_values(mode: str, steps: int, rows: int, lengths: Tensor | None, ids: Tensor | None) -> None:
    """Raise ValueError unless lengths lie in [0, T] and ids in [0, V)."""
    for name, t, low, high in (("lengths", lengths, 0, steps), ("ids", ids, 0, rows - 1)):
        if t is not None and t.numel():
            least, most = (int(v) for v in t.aminmax())
            if least < low or most > high:
                raise ValueError(f"{mode} expected {name} between {low} and {high}, got values from {least} to {most}")


# -------------------------------------------------------------------------------------------------------- operators


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _sizes(x, ids, table, w_hh):
    T, B = (x if x is not None else ids).shape[:2]
    return T, B, (x.shape[2] if x is not None else 0), w_hh.shape[1], (table.shape[0] if table is not None else 0)


def _gates_size(mode, dtype, T, B, H):
    # The kernels pad hidden units to whole vectors (arithmetic that also holds for symbolic sizes).
    if mode not in _GATE_SLOTS:
        return 0
    lanes = native.lanes(dtype)
    return T * B * ((H + lanes - 1) // lanes * lanes) * _GATE_SLOTS[mode]


def _as(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return t if t is None or (t.dtype == dtype and t.is_contiguous()) else t.to(dtype).contiguous()


def _inputs(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets):
    dtype = w_hh.dtype
    return {
        "x": _as(x, dtype),
        "ids": _as(ids, torch.int64),
        "table": _as(table, _real(dtype)),
        "w_ih": _as(w_ih, dtype),
        "w_hh": _as(w_hh, dtype),
        "b_ih": _as(b_ih, dtype),
        "b_hh": _as(b_hh, dtype),
        "h0": _as(h0, dtype),
        "c0": _as(c0, _real(dtype)),
        "lengths": _as(lengths, torch.int64),
        "resets": None if resets is None else resets.contiguous(),
    }


def _forward(
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms, mode, reverse, save, every_c, segment=0
):
    check(mode, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms)
    T, _, _, _, V = _sizes(x, ids, table, w_hh)
    check_values(mode, T, V, lengths, ids)
    given = x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets
    if segment:
        results = _new_forward(x, ids, h0, c0, w_hh, mode, save, every_c, segment)
        return recompute.forward(given, results, mode, reverse, every_c, segment)
    results = _new_forward(x, ids, h0, c0, w_hh, mode, save, every_c, empty=native.empty)
    return _run_forward(given, results, mode, reverse, save, every_c)


def _inference(
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms, mode, reverse, save, every_c, segment=0
):
    """`_forward` without gradients, outside the operator: what there is nothing of need not be a tensor of no elements."""
    check(mode, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms)
    T, B, _, H, V = _sizes(x, ids, table, w_hh)
    check_values(mode, T, V, lengths, ids)
    output, h_n, cs, c_n = native.empty((T, B, H), w_hh.dtype), w_hh.new_empty(B, H), None, None
    if mode == "LSTM":
        cs, c_n = native.empty((T, B, H), _real(w_hh.dtype)) if every_c else None, torch.empty_like(h_n)
    given = x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets
    return _run_forward(given, (output, cs, h_n, c_n, None), mode, reverse, False, every_c)


def _run_forward(given, results, mode, reverse, save, every_c):
    """The compiled forward pass into `results`."""
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets = given
    T, B, width, H, V = _sizes(x, ids, table, w_hh)
    output, cs, h_n, c_n, gates = results
    dtype = w_hh.dtype
    c_last = c_n if mode != "LSTM" or c_n.dtype == _real(dtype) else torch.empty_like(c_n, dtype=_real(dtype))
    tensors = _inputs(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets)
    tensors |= {"out": output, "h_n": h_n}
    if mode == "LSTM":
        tensors |= {"cs": cs if save or every_c else None, "c_n": c_last}
    if save:
        tensors["gates"] = gates
    native.call("forward", mode, dtype, (T, B, width, H, V), reverse, tensors)
    if c_last is not c_n:
        c_n.copy_(c_last)
    return results


def _new_forward(x, ids, h0, c0, w_hh, mode, save, every_c, segment=0, empty=None):
    T, B = (x if x is not None else ids).shape[:2]
    H, dtype, real = w_hh.shape[1], w_hh.dtype, _real(w_hh.dtype)
    lstm = mode == "LSTM"
    output = w_hh.new_empty(T, B, H)
    if empty is None:
        empty = w_hh.new_empty
    cs = empty((T, B, H) if lstm and (save or every_c) else (0,), dtype=real)
    h_n, c_n = w_hh.new_empty(B, H), w_hh.new_empty((B, H) if lstm else (0,))
    if segment:  # instead of gates, c before every segment
        gates = w_hh.new_empty((-(-T // segment), B, H) if lstm else (0,), dtype=real)
    else:
        gates = empty((_gates_size(mode, dtype, T, B, H) if save else 0,), dtype=dtype)
    return output, cs, h_n, c_n, gates


def _forward_fake(
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms, mode, reverse, save, every_c, segment=0
):
    check(mode, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms)
    return _new_forward(x, ids, h0, c0, w_hh, mode, save, every_c, segment)


def _new_backward(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, needed, norms):
    T, B = (x if x is not None else ids).shape[:2]
    inputs = (x, table, h0, c0, w_ih, w_hh, b_ih, b_hh)
    grads = [
        w_hh.new_empty((0,)) if t is None or not wanted else t.new_empty(t.shape)
        for t, wanted in zip(inputs, needed, strict=True)
    ]
    return (*grads, w_hh.new_empty((2, T, B) if norms else (0,), dtype=torch.float32))


def _backward(
    d_out,
    d_cs,
    d_h_n,
    d_c_n,
    x,
    ids,
    table,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih,
    b_hh,
    lengths,
    resets,
    output,
    cs,
    gates,
    mode,
    reverse,
    needed,
    norms,
    segment=0,
):
    T, B, _, H, _ = _sizes(x, ids, table, w_hh)
    given = x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets
    incoming = d_out, d_cs, d_h_n, d_c_n
    results = _new_backward(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, needed, norms)
    if segment:
        return recompute.backward(incoming, given, output, gates, results, mode, reverse, needed, norms, segment)
    dtype = w_hh.dtype
    if gates.numel() != _gates_size(mode, dtype, T, B, H) or (mode == "LSTM" and cs.numel() != output.numel()):
        # Forward did not know that it would be differentiated (or ran under another instruction set): run it again.
        output, cs, _, _, gates = _forward(
            x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, None, mode, reverse, True, True
        )
    return _run_backward(incoming, given, (output, cs, gates), results, mode, reverse, needed, norms)


def _run_backward(incoming, given, saved, results, mode, reverse, needed, norms):
    """The compiled backward pass into `results`, from what forward saved."""
    x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets = given
    (d_out, d_cs, d_h_n, d_c_n), (output, cs, gates) = incoming, saved
    T, B, width, H, V = _sizes(x, ids, table, w_hh)
    dtype, real = w_hh.dtype, _real(w_hh.dtype)
    dx, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, norms_out = results
    into: dict[str, Tensor | None] = {
        "dx": dx,
        "dh0": dh0,
        "dw_ih": dw_ih,
        "dw_hh": dw_hh,
        "db_ih": db_ih,
        "db_hh": db_hh,
    }
    wanted: dict[str, bool] = dict(zip(_DIFFERENTIABLE, needed, strict=True))
    into = {name: t for name, t in into.items() if wanted[name[1:]]}
    for name, t in (("d_table", d_table), ("dc0", dc0)):
        if wanted[name.removeprefix("d_").removeprefix("d")]:
            into[name] = t if t.dtype == real else torch.empty_like(t, dtype=real)
    tensors = _inputs(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets)
    tensors |= {
        "out": output.contiguous(),
        "cs": cs.contiguous() if mode == "LSTM" else None,
        "gates": gates,
        "d_out": _as(d_out, dtype),
        "d_cs": _as(d_cs, real) if mode == "LSTM" else None,
        "d_h_n": _as(d_h_n, dtype),
        "d_c_n": _as(d_c_n, real) if mode == "LSTM" else None,
        "grad_norms": norms_out if norms else None,
    }
    native.call("backward", mode, dtype, (T, B, width, H, V), reverse, tensors | into)
    for name, t in (("d_table", d_table), ("dc0", dc0)):
        if name in into and into[name] is not t:
            t.copy_(into[name])
    return results


def _backward_fake(
    d_out,
    d_cs,
    d_h_n,
    d_c_n,
    x,
    ids,
    table,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih,
    b_hh,
    lengths,
    resets,
    output,
    cs,
    gates,
    mode,
    reverse,
    needed,
    norms,
    segment=0,
):
    return _new_backward(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, needed, norms)


_library.impl("sequence", _forward, "CPU")
_library.impl("sequence_backward", _backward, "CPU")
torch.library.register_fake("unrolled::sequence", _forward_fake, lib=_library)
torch.library.register_fake("unrolled::sequence_backward", _backward_fake, lib=_library)


# ---------------------------------------------------------------------------------------------------------- autograd


def _save_for_backward(ctx, inputs, output):
    (x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms, mode, reverse, _, _, segment) = inputs
    h, cs, _, _, gates = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, h, cs, gates)
    ctx.mode, ctx.reverse, ctx.grad_norms, ctx.segment = mode, reverse, grad_norms, segment


def observed(tensors: tuple) -> bool:
    """Whether to go through the operators. Where nobody looks, PyTorch's way to an operator written in Python only costs time:
    at B = 1, H = 64 calls of one to ten steps took 1.5 to 2.1 times as long."""
    return native.observed(tensors) or torch._C._autograd._profiler_enabled()  # pyright: ignore[reportAttributeAccessIssue]


def _differentiate(ctx, d_out, d_cs, d_h_n, d_c_n, _d_gates):
    tensors = ctx.saved_tensors
    wants = ctx.needs_input_grad
    needed = [wants[0], wants[2], wants[3], wants[4], wants[5], wants[6], wants[7], wants[8]]
    needed = [bool(w) for w in needed]
    if d_out is None and d_cs is None and d_h_n is None and d_c_n is None:
        return (None,) * 17
    if ctx.mode != "LSTM":
        d_cs = d_c_n = None
    incoming = d_out, d_cs, d_h_n, d_c_n
    if not (torch.is_grad_enabled() or observed((*incoming, *tensors))):
        backward = _backward
    else:
        backward = _SequenceBackward.apply if _transformed() else torch.ops.unrolled.sequence_backward
    dx, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, norms = backward(
        *incoming, *tensors, ctx.mode, ctx.reverse, needed, ctx.grad_norms is not None, ctx.segment
    )
    if ctx.grad_norms is not None:
        with torch.no_grad():
            ctx.grad_norms.copy_(norms)
    grads = (dx, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh)
    dx, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh = (g if w else None for g, w in zip(grads, needed, strict=True))
    return dx, None, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, *[None] * 8


torch.library.register_autograd("unrolled::sequence", _differentiate, setup_context=_save_for_backward, lib=_library)


def _by_definition(mode, gates_x, h0, c0, w_hh, b_hh, lengths, resets, reverse, grad_norms=None):
    """The same from the cells, with zeros where no state is given."""
    h = gates_x.new_zeros(gates_x.shape[1], w_hh.shape[1]) if h0 is None else h0
    c = torch.zeros_like(h) if mode == "LSTM" and c0 is None else c0
    masks = {"lengths": lengths, "resets": resets, "reverse": reverse}
    return plain.run_gates(mode, gates_x, h, c, w_hh, b_hh, **masks, grad_norms=grad_norms)


def _save_for_double_backward(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    *tensors, ctx.mode, ctx.reverse, ctx.needed, _, _ = inputs
    ctx.save_for_backward(*tensors[:15])


def _differentiate_twice(ctx, *grads_of_grads):
    """The gradient of sequence_backward, from the definition: run it, differentiate it, differentiate that."""
    d_out, d_cs, d_h_n, d_c_n, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets = ctx.saved_tensors
    fresh: list[Any] = [
        None if t is None else t.detach().requires_grad_(t.is_floating_point())
        for t in (d_out, d_cs, d_h_n, d_c_n, x, table, h0, c0, w_ih, w_hh, b_ih, b_hh)
    ]
    d_results, inputs = fresh[:4], fresh[4:]
    x, table, h0, c0, w_ih, w_hh, b_ih, b_hh = inputs
    with torch.enable_grad():
        gates_x = (
            torch.nn.functional.linear(x, w_ih, b_ih)
            if x is not None
            else torch.nn.functional.embedding(ids, table).to(w_hh.dtype)
        )
        results = _by_definition(ctx.mode, gates_x, h0, c0, w_hh, b_hh, lengths, resets, ctx.reverse)
        pairs = [(r, d) for r, d in zip(results, d_results, strict=True) if r is not None and d is not None]
        wanted = [(t, g) for t, need, g in zip(inputs, ctx.needed, grads_of_grads[:8], strict=True) if need and g is not None]
        if not wanted:
            return (None,) * 23
        first = torch.autograd.grad(
            [r for r, _ in pairs],
            [t for t, _ in wanted],
            [d.to(r.dtype) for r, d in pairs],
            create_graph=True,
            allow_unused=True,
        )
        chosen = [(f, g) for f, (_, g) in zip(first, wanted, strict=True) if f is not None and f.requires_grad]
        if not chosen:
            return (None,) * 23
        leaves = [t for t in fresh if t is not None]
        second = torch.autograd.grad([f for f, _ in chosen], leaves, [g for _, g in chosen], allow_unused=True)
    second = iter(second)
    out = [None if t is None else next(second) for t in fresh]
    d_out, d_cs, d_h_n, d_c_n, dx, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh = out
    return (d_out, d_cs, d_h_n, d_c_n, dx, None, d_table, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, *[None] * 10)


torch.library.register_autograd(
    "unrolled::sequence_backward", _differentiate_twice, setup_context=_save_for_double_backward, lib=_library
)


# -------------------------------------------------------------------------------------------------------------- vmap


def _loop(op):
    """Batching rule: one call per example, results stacked."""

    def rule(info, in_dims, *args):
        results = []
        for i in range(info.batch_size):
            one = [a if d is None or not isinstance(a, Tensor) else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]
            results.append(op(*one))
        stacked = tuple(torch.stack(r) for r in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


torch.library.register_vmap("unrolled::sequence", _loop(torch.ops.unrolled.sequence), lib=_library)
torch.library.register_vmap("unrolled::sequence_backward", _loop(torch.ops.unrolled.sequence_backward), lib=_library)


# torch.func's transforms do not go through an operator's registered autograd (torch 2.13: "must override
# setup_context"), only through an autograd.Function. Inside them, and only there, these stand for the operators.


def _transformed() -> bool:
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


class _Sequence(torch.autograd.Function):
    forward = staticmethod(torch.ops.unrolled.sequence.default)
    setup_context = staticmethod(_save_for_backward)
    backward = staticmethod(_differentiate)  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def vmap(info, in_dims, *args):
        return _loop(_Sequence.apply)(info, in_dims, *args)


class _Unobserved(torch.autograd.Function):
    """The same without the operator, where nothing but autograd is to see it."""

    @staticmethod
    def forward(ctx, *inputs):  # pyright: ignore[reportIncompatibleMethodOverride]  with setup_context, apply is slower
        results = _forward(*inputs)
        _save_for_backward(ctx, inputs, results)
        return results

    backward = staticmethod(_differentiate)  # pyright: ignore[reportAssignmentType]


class _SequenceBackward(torch.autograd.Function):
    forward = staticmethod(torch.ops.unrolled.sequence_backward.default)
    setup_context = staticmethod(_save_for_double_backward)
    backward = staticmethod(_differentiate_twice)

    @staticmethod
    def vmap(info, in_dims, *args):
        return _loop(_SequenceBackward.apply)(info, in_dims, *args)


# ---------------------------------------------------------------------------------------------------- what layers call


def supports(mode: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the compiled kernels run this here; `run` takes the plain path where they don't."""
    return device.type == "cpu" and mode in _HIDDEN_ROWS and _computed_in(dtype, device) in native.dtypes


def _computed_in(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the kernels that serve this one: bf16 is widened to fp32 where the processor has no fast products of it."""
    widened = dtype == torch.bfloat16 and device.type == "cpu" and dtype not in native.dtypes
    return torch.float32 if widened else dtype


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on this device; None where it is off, or the device (meta) knows none."""
    if torch.compiler.is_compiling():  # PyTorch 2.11 cannot trace `is_autocast_available`
        known = device.type != "meta"
    else:
        known = torch._C._is_any_autocast_enabled() and torch.amp.is_autocast_available(device.type)
    on = known and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def run_stack(mode, x, initial, layers):
    """Layers of one direction on top of each other, without gradients, where nothing is `observed`: `(output, states)`.

    x (T, B, I); `initial`: h0 and for the LSTM c0 (L, B, H), or nothing; `layers`: w_ih, w_hh, b_ih, b_hh of each. states: h_n
    and for the LSTM c_n. Checks nothing: all are on the CPU, of one dtype with compiled kernels other than bf16, and fit.
    """
    (T, B, width), dtype, H = x.shape, x.dtype, layers[0][1].shape[1]
    h0, c0 = (*initial, None, None)[:2]
    h_n, c_n = (x.new_empty(len(layers), B, H) if part == 0 or mode == "LSTM" else None for part in range(2))
    for k, (w_ih, w_hh, b_ih, b_hh) in enumerate(layers):
        tensors = {"x": x, "w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh}
        tensors |= {name: t[k] for name, t in (("h0", h0), ("c0", c0), ("h_n", h_n), ("c_n", c_n)) if t is not None}
        tensors = {name: t if t is None or t.is_contiguous() else t.contiguous() for name, t in tensors.items()}
        x = native.empty((T, B, H), dtype)
        native.call("forward", mode, dtype, (T, B, width, H, 0), False, tensors | {"out": x})
        width = H
    return x, (h_n,) if c_n is None else (h_n, c_n)


def run(
    mode,
    x,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih=None,
    b_hh=None,
    *,
    lengths=None,
    resets=None,
    reverse=False,
    grad_norms=None,
    every_c=True,
    save="gates",
):
    """One layer in one direction over a whole sequence: `(output, cs, h_n, c_n)`.

    x (T, B, I); h0, c0 (B, H) or None for zeros; weights and biases as torch.nn's, biases may be None.
    lengths (B,): steps t >= lengths[b] give output 0 and leave the state; reversed, a row is read from its own end.
    resets (T, B): where true, the state, and the gradient through it, is cut to zero before step t.
    output, cs (T, B, H): every step's h and c; h_n, c_n (B, H). cs and c_n are None except for LSTM, and cs is None
    with every_c=False, which saves its memory in inference.
    save: what is kept for backward beside x and h: the "gates", or "outputs", which is nothing: they are computed again.
    grad_norms (2, T, B) float32: backward writes ||dL/dh_t|| and ||dL/dc_t|| there, of all that arrives at each state.

    Raises ValueError if shapes, dtypes, devices, lengths or resets do not fit each other.
    """
    return _run(mode, x, None, None, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, reverse, grad_norms, every_c, save)


def run_tokens(
    mode,
    ids,
    embedding,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih=None,
    b_hh=None,
    *,
    lengths=None,
    resets=None,
    reverse=False,
    grad_norms=None,
    every_c=True,
    save="gates",
):
    """`run` on x = embedding[ids], ids (T, B), without the product with W_ih at every step: it is made once per row of
    the (V, I) embedding. Pays where V is below T * B. Without an embedding, ids are one-hot vectors of width I = V."""
    dtype = _computed_in(autocast_dtype(w_hh.device) or w_hh.dtype, w_hh.device)
    with torch.autocast(w_hh.device.type, enabled=False):
        embedding, w_ih, b_ih = (None if t is None else t.to(dtype) for t in (embedding, w_ih, b_ih))
        one_hot = embedding is None
        table = linear(embedding, w_ih, b_ih) if not one_hot else w_ih.t() if b_ih is None else w_ih.t() + b_ih
    return _run(mode, None, ids, table, h0, c0, None, w_hh, None, b_hh, lengths, resets, reverse, grad_norms, every_c, save)


def _run(
    mode, x: Any, ids: Any, table: Any, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, reverse, grad_norms, every_c, save
):
    autocast = autocast_dtype(w_hh.device)
    asked = autocast or w_hh.dtype
    dtype = _computed_in(asked, w_hh.device)
    if autocast is not None or dtype != asked:
        cast: list[Any] = [None if t is None else t.to(dtype) for t in (x, table, h0, c0, w_ih, w_hh, b_ih, b_hh)]
        x, table, h0, c0, w_ih, w_hh, b_ih, b_hh = cast
        with torch.autocast(w_hh.device.type, enabled=False):
            state, masks = (h0, c0), (lengths, resets, reverse, grad_norms, every_c, save)
            output, cs, h_n, c_n = _run(mode, x, ids, table, *state, w_ih, w_hh, b_ih, b_hh, *masks)
        return output.to(asked), cs, h_n.to(asked), None if c_n is None else c_n.to(asked)
    if not supports(mode, w_hh.dtype, w_hh.device):
        check(mode, x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms)
        if not torch.compiler.is_compiling():
            check_values(mode, (x if x is not None else ids).shape[0], 0 if table is None else table.shape[0], lengths, ids)
        gates_x = torch.nn.functional.linear(x, w_ih, b_ih) if x is not None else torch.nn.functional.embedding(ids, table)
        output, cs, h_n, c_n = _by_definition(mode, gates_x, h0, c0, w_hh, b_hh, lengths, resets, reverse, grad_norms)
        return output, cs if every_c else None, h_n, c_n
    differentiable = x, table, h0, c0, w_ih, w_hh, b_ih, b_hh
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiable)
    if torch._C._get_tracing_state() is not None:  # traces are checked with gradients and without: backward runs forward again
        wanted = False
    T, B = (x if x is not None else ids).shape[:2]
    segment = recompute.segment_steps(T, B) if wanted and save == "outputs" and mode in _GATE_SLOTS else 0
    given = x, ids, table, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, resets, grad_norms
    if not observed(given):
        sequence = _Unobserved.apply if wanted else _inference
    else:
        sequence = _Sequence.apply if _transformed() else torch.ops.unrolled.sequence
    output, cs, h_n, c_n, _ = sequence(*given, mode, reverse, wanted and not segment, every_c, segment)
    if mode != "LSTM":
        return output, None, h_n, None
    return output, cs if every_c else None, h_n, c_n
