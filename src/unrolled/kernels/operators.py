"""The compiled kernels as PyTorch operators, and `run`, the one function that layers call.

`unrolled::sequence` runs one layer in one direction over a whole sequence, `unrolled::sequence_backward` is its gradient. Both
are functional: what forward saved is only read, so backward may run twice. Differentiating the backward goes through the
definition (`definition.py`).
"""

# The dispatcher and autograd pass tensors or None by position; `sequence.check` does at run time what types cannot.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportCallIssue=false, reportAssignmentType=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES

from . import context, definition, library, recompute, saved, sequence
from .linear import linear
from .sequence import DIFFERENTIABLE, Inputs

_INPUTS = (
    "Tensor? x, Tensor? ids, Tensor? table, Tensor? h0, Tensor? c0, Tensor? w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh,"
    " Tensor? lengths, Tensor? resets"
)
_COUNT = len(Inputs._fields)
_WEIGHTS = tuple(map(Inputs._fields.index, ("w_ih", "w_hh", "b_ih", "b_hh")))
_library = torch.library.Library("unrolled", "FRAGMENT")
_library.define(
    f"sequence({_INPUTS}, Tensor? grad_norms, str mode, bool reverse, bool save, bool every_c, int segment=0)"
    " -> (Tensor output, Tensor cs, Tensor h_n, Tensor c_n, Tensor gates)"
)
_library.define(
    f"sequence_backward(Tensor? d_out, Tensor? d_cs, Tensor? d_h_n, Tensor? d_c_n, {_INPUTS},"
    " Tensor output, Tensor cs, Tensor gates, str mode, bool reverse, bool[] needed, bool norms, int segment=0)"
    " -> (Tensor dx, Tensor d_table, Tensor dh0, Tensor dc0, Tensor dw_ih, Tensor dw_hh, Tensor db_ih, Tensor db_hh,"
    " Tensor norms)"
)


def _forward(*arguments):
    given, (grad_norms, mode, *_) = Inputs(*arguments[:_COUNT]), arguments[_COUNT:]
    sequence.check(mode, given, grad_norms)
    sequence.check_values(mode, given)
    return _forward_of_checked(*arguments)


def _forward_of_checked(*arguments):
    given, (_, mode, reverse, save, every_c, *segment) = Inputs(*arguments[:_COUNT]), arguments[_COUNT:]
    if segment and segment[0]:
        results = sequence.new_results(mode, given, save, every_c, segment[0])
        return recompute.forward(mode, given, results, reverse, every_c, segment[0])
    results = sequence.new_results(mode, given, save, every_c, empty=library.empty)
    return sequence.forward(mode, given, results, reverse, save, every_c)


def _forward_fake(*arguments):
    given, (grad_norms, mode, _, save, every_c, *segment) = Inputs(*arguments[:_COUNT]), arguments[_COUNT:]
    sequence.check(mode, given, grad_norms)
    return sequence.new_results(mode, given, save, every_c, *segment)


def _backward(*arguments):
    incoming, given = arguments[:4], Inputs(*arguments[4 : 4 + _COUNT])
    output, cs, gates, mode, reverse, needed, norms, *segment = arguments[4 + _COUNT :]
    sequence.check_backward(mode, given, incoming, output)
    gradients = sequence.new_gradients(given, needed, norms)
    if segment and segment[0]:
        return recompute.backward(mode, incoming, given, output, gates, gradients, reverse, needed, norms, segment[0])
    T, B, _, H, _ = given.sizes
    size = sequence.gates_size(mode, given.w_hh.dtype, T, B, H)
    if gates.numel() != size or (mode == "LSTM" and cs.numel() != output.numel()):
        # Forward did not know that it would be differentiated (or ran under another instruction set): run it again.
        output, cs, _, _, gates = _forward(*given, None, mode, reverse, True, True)
    return sequence.backward(mode, incoming, given, (output, cs, gates), gradients, reverse, needed, norms)


def _backward_fake(*arguments):
    _, _, _, _, _, needed, norms, *_ = arguments[4 + _COUNT :]
    return sequence.new_gradients(Inputs(*arguments[4 : 4 + _COUNT]), needed, norms)


_library.impl("sequence", _forward, "CPU")
_library.impl("sequence_backward", _backward, "CPU")
torch.library.register_fake("unrolled::sequence", _forward_fake, lib=_library)
torch.library.register_fake("unrolled::sequence_backward", _backward_fake, lib=_library)


# ---------------------------------------------------------------------------------------------------------- autograd


def _save_for_backward(ctx, inputs, output):
    given, (ctx.grad_norms, ctx.mode, ctx.reverse, _, _, ctx.segment) = inputs[:_COUNT], inputs[_COUNT:]
    h, cs, _, _, gates = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given, h, cs, gates)


def _differentiate(ctx, d_out, d_cs, d_h_n, d_c_n, _d_gates, tensors=None, asked=None):
    tensors, nothing = ctx.saved_tensors if tensors is None else tensors, (None,) * (_COUNT + 6)
    if d_out is None and d_cs is None and d_h_n is None and d_c_n is None:
        return nothing
    if ctx.mode != "LSTM":
        d_cs = d_c_n = None
    wants = dict(zip(Inputs._fields, asked or ctx.needs_input_grad, strict=False))
    needed = [bool(wants[name]) for name in DIFFERENTIABLE]
    incoming = d_out, d_cs, d_h_n, d_c_n
    if torch.is_grad_enabled() or context.watched((*incoming, *tensors)):
        backward = _SequenceBackward.apply if _transformed() else torch.ops.unrolled.sequence_backward
    else:
        backward = _backward
    *found, norms = backward(*incoming, *tensors, ctx.mode, ctx.reverse, needed, ctx.grad_norms is not None, ctx.segment)
    if ctx.grad_norms is not None:
        with torch.no_grad():
            ctx.grad_norms.copy_(norms)
    of = {name: g for name, g, wanted in zip(DIFFERENTIABLE, found, needed, strict=True) if wanted}
    return (*map(of.get, Inputs._fields), *nothing[_COUNT:])


torch.library.register_autograd("unrolled::sequence", _differentiate, setup_context=_save_for_backward, lib=_library)


def _by_definition(mode, gates_x, given, reverse, grad_norms=None):
    """The same from the cells, with zeros where no state is given."""
    _, _, _, h, c, _, w_hh, _, b_hh, lengths, resets = given
    h = gates_x.new_zeros(gates_x.shape[1], w_hh.shape[1]) if h is None else h
    c = torch.zeros_like(h) if mode == "LSTM" and c is None else c
    masks = {"lengths": lengths, "resets": resets, "reverse": reverse}
    return definition.run_gates(mode, gates_x, h, c, w_hh, b_hh, **masks, grad_norms=grad_norms)


def _save_for_double_backward(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    *tensors, ctx.mode, ctx.reverse, ctx.needed, _, _ = inputs
    ctx.save_for_backward(*tensors[: 4 + _COUNT])


def _differentiate_twice(ctx, *grads_of_grads):
    """The gradient of sequence_backward, from the definition: run it, differentiate it, differentiate that."""
    names = ("d_out", "d_cs", "d_h_n", "d_c_n", *Inputs._fields)
    nothing = (None,) * (len(names) + 8)
    fresh: dict[str, Any] = {
        name: None if t is None else t.detach().requires_grad_(t.is_floating_point())
        for name, t in zip(names, ctx.saved_tensors, strict=True)
    }
    given = Inputs(*(fresh[name] for name in Inputs._fields))
    with torch.enable_grad():
        if given.x is not None:
            gates_x = torch.nn.functional.linear(given.x, given.w_ih, given.b_ih)
        else:
            gates_x = torch.nn.functional.embedding(given.ids, given.table).to(given.w_hh.dtype)
        results = _by_definition(ctx.mode, gates_x, given, ctx.reverse)
        pairs = [(r, fresh[n]) for r, n in zip(results, names[:4], strict=True) if r is not None and fresh[n] is not None]
        inputs = [fresh[name] for name in DIFFERENTIABLE]
        wanted = [(t, g) for t, need, g in zip(inputs, ctx.needed, grads_of_grads[:8], strict=True) if need and g is not None]
        if not wanted:
            return nothing
        first = torch.autograd.grad(
            [r for r, _ in pairs],
            [t for t, _ in wanted],
            [d.to(r.dtype) for r, d in pairs],
            create_graph=True,
            allow_unused=True,
        )
        chosen = [(f, g) for f, (_, g) in zip(first, wanted, strict=True) if f is not None and f.requires_grad]
        if not chosen:
            return nothing
        leaves = {name: t for name, t in fresh.items() if t is not None and t.requires_grad}
        found = torch.autograd.grad([f for f, _ in chosen], list(leaves.values()), [g for _, g in chosen], allow_unused=True)
    second = dict(zip(leaves, found, strict=True))
    return (*map(second.get, names), *nothing[len(names) :])


torch.library.register_autograd(
    "unrolled::sequence_backward", _differentiate_twice, setup_context=_save_for_double_backward, lib=_library
)


# -------------------------------------------------------------------------------------------------------------- vmap


def _loop(operator):
    """Batching rule: one call per example, results stacked."""

    def rule(info, in_dims, *arguments):
        results = []
        for i in range(info.batch_size):
            pairs = zip(arguments, in_dims, strict=True)
            results.append(operator(*(a if d is None or not isinstance(a, Tensor) else a.select(d, i) for a, d in pairs)))
        stacked = tuple(torch.stack(r) for r in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


torch.library.register_vmap("unrolled::sequence", _loop(torch.ops.unrolled.sequence), lib=_library)
torch.library.register_vmap("unrolled::sequence_backward", _loop(torch.ops.unrolled.sequence_backward), lib=_library)


# torch.func's transforms do not go through an operator's registered autograd (torch 2.13: "must override
# setup_context"), only through an autograd.Function. Inside them, and only there, these stand for the operators.


def _transformed() -> bool:
    return not context.compiling() and context.transformed()


class _Sequence(torch.autograd.Function):
    forward = staticmethod(torch.ops.unrolled.sequence.default)
    setup_context = staticmethod(_save_for_backward)
    backward = staticmethod(_differentiate)  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _loop(_Sequence.apply)(info, in_dims, *arguments)


class _SequenceBackward(torch.autograd.Function):
    forward = staticmethod(torch.ops.unrolled.sequence_backward.default)
    setup_context = staticmethod(_save_for_double_backward)
    backward = staticmethod(_differentiate_twice)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _loop(_SequenceBackward.apply)(info, in_dims, *arguments)


class _Direct(torch.autograd.Function):
    """The same without the operator, where nothing but autograd's backward pass has to see it.

    PyTorch's way to an operator written in Python takes 50 to 200 microseconds a call.
    """

    @staticmethod
    def forward(ctx, *inputs):  # pyright: ignore[reportIncompatibleMethodOverride]  with setup_context, apply is slower
        results = _forward_of_checked(*inputs)
        inputs = saved.aliases(ctx, inputs, _WEIGHTS)
        # h is saved under a version counter of its own, as the caller may write to the output (`relu_`): backward looks at
        # the output's own counter, held by a tensor without memory, and computes h again if it was written to.
        _save_for_backward(ctx, inputs, results._replace(output=results.output.data))
        ctx.how, ctx.written = inputs[_COUNT:], results.output.detach()
        ctx.written.data = torch.empty(0, dtype=results.output.dtype, device="cpu")
        ctx.version = ctx.written._version
        return results

    @staticmethod
    def backward(ctx, *incoming):
        tensors = ctx.saved_tensors
        if ctx.written._version != ctx.version:
            _, mode, reverse, save, _, segment = ctx.how
            again = _forward(*tensors[:_COUNT], None, mode, reverse, save, True, segment)
            tensors = (*tensors[:_COUNT], again.output, again.cs, again.gates)
        if torch.is_grad_enabled():
            tensors = saved.differentiable(ctx, tensors)
        # Who has norms noted asks now and then for nothing else; to look costs all others a few microseconds, and is left out.
        asked = None if ctx.grad_norms is None else context.asked_for(ctx, tensors[:_COUNT])
        return _differentiate(ctx, *incoming, tensors=tensors, asked=asked)


# ---------------------------------------------------------------------------------------------------- what layers call


def supports(mode: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the compiled kernels run this here."""
    return device.type == "cpu" and mode in MODES and _computed_in(dtype, device) in library.dtypes


def _computed_in(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the kernels that serve this one: bf16 is widened to fp32 where the processor has no fast products of it."""
    widened = dtype == torch.bfloat16 and device.type == "cpu" and dtype not in library.dtypes
    return torch.float32 if widened else dtype


def token_table(embedding: Tensor | None, w_ih: Tensor, b_ih: Tensor | None) -> Tensor:
    """W_ih times every row of the (V, I) embedding, plus b_ih: (V, G*H). Without an embedding, ids are one-hot, V is I.

    Pays where V is below T * B: the product is made once per row of the table instead of once per step.
    """
    dtype = _computed_in(context.autocast_dtype(w_ih.device) or w_ih.dtype, w_ih.device)
    with torch.autocast(w_ih.device.type, enabled=False):
        embedding, w_ih, b_ih = (None if t is None else t.to(dtype) for t in (embedding, w_ih, b_ih))
        if embedding is not None:
            return linear(embedding, w_ih, b_ih)
        return w_ih.t() if b_ih is None else w_ih.t() + b_ih


def run(
    mode: str,
    given: Inputs,
    *,
    watched: str,
    reverse: bool = False,
    grad_norms: Tensor | None = None,
    every_c: bool = True,
    save: str = "gates",
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """One layer in one direction over a whole sequence: (output, cs, h_n, c_n), as `sequence.Results` has them.

    cs and c_n are None except for the LSTM, and cs is None with every_c=False, which saves its memory in inference.

    Args:
        given: the inputs. Steps t >= lengths[b] give output 0 and leave the state; reversed, a row is read from its own end.
            Where resets is true, the state, and the gradient through it, is cut to zero before that step.
        watched: what `context.watched` says of all these tensors; empty, they are handed to the kernels directly.
        grad_norms: (2, T, B) float32: backward writes ||dL/dh_t|| and ||dL/dc_t|| there, of all that arrives at each state.
        save: what is kept for backward beside x and h: the "gates", or "outputs", which is nothing: they are computed again.

    Raises:
        ValueError: shapes, dtypes, devices, lengths, resets or ids that do not fit each other.
    """
    device = given.w_hh.device
    autocast = context.autocast_dtype(device)
    asked = autocast or given.w_hh.dtype
    dtype = _computed_in(asked, device)
    if autocast is not None or dtype != asked:
        cast = {n: t.to(dtype) for n, t in zip(Inputs._fields, given, strict=True) if t is not None and n in DIFFERENTIABLE}
        how = {"watched": watched, "reverse": reverse, "grad_norms": grad_norms, "every_c": every_c, "save": save}
        with torch.autocast(device.type, enabled=False):
            output, cs, h_n, c_n = run(mode, given._replace(**cast), **how)
        return output.to(asked), cs, h_n.to(asked), None if c_n is None else c_n.to(asked)
    sequence.check(mode, given, grad_norms)
    if not watched:
        sequence.check_values(mode, given)
    differentiable = given.x, given.table, given.h0, given.c0, given.w_ih, given.w_hh, given.b_ih, given.b_hh
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiable)
    if not (wanted or watched):
        return sequence.inference(mode, given, reverse, every_c)
    if watched == context.TRACE:  # traces are checked with gradients and without: backward runs forward again
        wanted = False
    segment = recompute.segment_steps(*given.sizes[:2]) if wanted and save == "outputs" and MODES[mode].saved else 0
    call = _Direct.apply if not watched else _Sequence.apply if _transformed() else torch.ops.unrolled.sequence
    if watched and wanted and watched != "torch.compile":  # as `saved.aliases`, to be seen by whoever watches
        given = Inputs(*(t.view_as(t) if k in _WEIGHTS and t is not None else t for k, t in enumerate(given)))
    output, cs, h_n, c_n, _ = call(*given, grad_norms, mode, reverse, wanted and not segment, every_c, segment)
    if watched and watched != "torch.compile":  # what backward reads of the operator's results the caller may not write to
        output = output.clone()
    if mode != "LSTM":
        return output, None, h_n, None
    return output, cs if every_c else None, h_n, c_n
