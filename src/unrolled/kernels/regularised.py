"""Sequences of regularised steps on the CPU: kernels that leave room in each step for what regularises it.

For layer normalisation, recurrent dropout, zoneout and resets to a learned state, in fp32 and float64. Kept for backward: the
state's part of the gates, and the state before each step; the rest of a step is computed again. The equations are in
csrc/regularised.hpp. As in `operators.py`, whoever has to see the work sees operators, `unrolled::regularised` and
`unrolled::regularised_backward`; gradients that are to be differentiated again are the definition's.
"""

# Arguments are tensors or None by kind of call; `_check` does at run time what types cannot.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportReturnType=false
# pyright: reportCallIssue=false

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.cells import MODES, Norm, Norms
from unrolled.options import StepOptions

from . import context, definition, library, saved
from .linear import outer
from .sequence import expect

_FIELDS = [
    *("x", "w_hh", "p", "b_hh", "gain_hh", "gain_c", "bias_c", "mask", "stay_h", "stay_c", "alive", "cut"),
    *("start_h", "start_c", "h", "c", "seen", "out", "cs", "h_n", "c_n"),
    *("d_out", "d_cs", "dh", "dc", "dx", "dp", "d_start_h", "d_start_c", "sums", "grad_norms"),
]


class _Args(ctypes.Structure):
    c_name = "unrolled_regularised_args"
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("mode", "dtype", "threads", "kept", "reverse", "unused")),
        *((name, ctypes.c_int64) for name in ("T", "B", "H")),
        *((name, ctypes.c_double) for name in ("share_h", "share_c")),
        *((name, ctypes.c_void_p) for name in _FIELDS),
    ]


_POINTER = ctypes.POINTER(_Args)


class Inputs(NamedTuple):
    """What regularised steps are computed from. The first ten have gradients."""

    x: Tensor
    """(T, B, G*H): all of the gates that comes from the input, b_ih included."""
    h0: Tensor
    """(B, H)"""
    c0: Tensor | None
    """(B, H), of the LSTM."""
    w_hh: Tensor
    """(G*H, H)"""
    b_hh: Tensor | None
    """(G*H,)"""
    gain_hh: Tensor | None
    """(G*H,): with it, gates are normalised."""
    gain_c: Tensor | None
    """(H,), and bias_c: with them, the LSTM's c is."""
    bias_c: Tensor | None
    start_h: Tensor | None
    """(B, H): where a reset goes back to, with start_c; None is zeros."""
    start_c: Tensor | None
    mask: Tensor | None
    """(B, H): recurrent dropout's."""
    stay_h: Tensor | None
    """(T, B, H) bool: zoneout's mask of h."""
    stay_c: Tensor | None
    lengths: Tensor | None
    """(B,) integers."""
    resets: Tensor | None
    """(T, B) bool."""


_COUNT, _DIFFERENTIABLE, _WEIGHTS = len(Inputs._fields), Inputs._fields[:10], range(3, 8)
_always = {"x", "h0", "w_hh"}
_inputs = ", ".join(f"Tensor{'' if name in _always else '?'} {name}" for name in Inputs._fields)
_how = "str mode, bool reverse, float share_h, float share_c"  # shares: zoneout in evaluation, without masks
_library = torch.library.Library("unrolled", "FRAGMENT")
_library.define(
    f"regularised({_inputs}, Tensor? grad_norms, {_how}, bool save)"
    " -> (Tensor output, Tensor cs, Tensor h_n, Tensor c_n, Tensor p, Tensor h, Tensor c, Tensor seen)"
)
_library.define(
    "regularised_backward(Tensor? d_out, Tensor? d_cs, Tensor? d_h_n, Tensor? d_c_n,"
    f" {_inputs}, Tensor p, Tensor h, Tensor c, Tensor seen, {_how}, bool norms)"
    f" -> ({', '.join(f'Tensor d_{name}' for name in _DIFFERENTIABLE)}, Tensor norms)"
)


def run(
    mode: str,
    x_gates: Tensor,
    h: Tensor,
    c: Tensor | None,
    w_hh: Tensor,
    b_hh: Tensor | None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    grad_norms: Tensor | None = None,
    options: StepOptions,
    watched: str = "",
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """`definition.run_gates`, faster: (output, cs, h_n, c_n) from x_gates (T, B, G*H).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other.
    """
    norms, norm_c = options.norms, None if options.norms is None else options.norms.c
    gain_c, bias_c = (None, None) if norm_c is None else (norm_c.gain, norm_c.bias)
    bias_c = torch.zeros_like(gain_c) if bias_c is None and gain_c is not None else bias_c
    starts = options.reset_to if resets is not None else (None, None)
    zoneout = options.zoneout_h, options.zoneout_c
    stays = (stay if isinstance(stay, Tensor) else None for stay in zoneout)
    shares = (0.0 if isinstance(stay, Tensor) else float(stay) for stay in zoneout)
    gain_hh = None if norms is None else norms.hh
    given = Inputs(x_gates, h, c, w_hh, b_hh, gain_hh, gain_c, bias_c, *starts, options.mask, *stays, lengths, resets)
    # A trace is checked with gradients and without: backward runs forward again.
    save = torch.is_grad_enabled() and watched != context.TRACE and any(t is not None and t.requires_grad for t in given[:10])
    call = torch.ops.unrolled.regularised if watched else _Direct.apply if save else _forward
    if watched and save and watched != "torch.compile":  # as `saved.aliases`, to be seen by whoever watches
        given = Inputs(*(t.view_as(t) if k in _WEIGHTS and t is not None else t for k, t in enumerate(given)))
    output, cs, h_n, c_n, *_ = call(*given, grad_norms, mode, reverse, *shares, save)
    return (output, cs, h_n, c_n) if mode == "LSTM" else (output, None, h_n, None)


def _check(mode: str, given: Inputs, grad_norms: Tensor | None = None, incoming: tuple = ()) -> None:
    """Raise ValueError unless shapes, dtypes, layouts and devices agree."""
    if mode not in MODES:
        raise ValueError(f"expected mode to be one of {', '.join(MODES)}, got {mode!r}")
    if given.x.dim() != 3:
        raise ValueError(f"{mode} expected x_gates of shape (T, B, G*H), got {tuple(given.x.shape)}")
    if (given.c0 is None) == (mode == "LSTM") or (given.gain_c is None) != (given.bias_c is None):
        raise ValueError(f"{mode} expected c0 for the LSTM alone, and gain_c and bias_c both or neither")
    (T, B, width), dtype, device = given.x.shape, given.x.dtype, given.x.device
    H = width // MODES[mode].gates
    state, gates, units, masks = (B, H), (width,), (H,), (T, B, H)
    of_weights = (width, H), gates, gates, units, units
    shapes = given.x.shape, state, state, *of_weights, state, state, state, masks, masks, (B,), (T, B)
    own = {"stay_h": torch.bool, "stay_c": torch.bool, "resets": torch.bool}
    own["lengths"] = dtype if given.lengths is None else given.lengths.dtype
    for name, tensor, shape in zip(Inputs._fields, given, shapes, strict=True):
        expect(mode, name, tensor, shape, own.get(name, dtype), device)
    expect(mode, "grad_norms", grad_norms, (2, T, B), torch.float32, device)
    for tensor, shape in zip(incoming, (masks, masks, state, state), strict=False):
        expect(mode, "an incoming gradient", tensor, shape, dtype, device)


def _forward_fake(*arguments):
    given, (grad_norms, mode, *_, save) = Inputs(*arguments[:_COUNT]), arguments[_COUNT:]
    _check(mode, given, grad_norms)
    return _new_results(mode, given, save)


def _new_results(mode: str, given: Inputs, save: bool, empty: Any = None) -> tuple[Tensor, ...]:
    """Memory for output, cs, h_n, c_n and what backward reads: p, h, c, seen. What a call has nothing of has no elements."""
    (T, B, _), H, lstm, new = given.x.shape, given.w_hh.shape[1], mode == "LSTM", given.x.new_empty
    shapes = (T, B, H), (T, B, H) if lstm else (0,), (B, H), (B, H) if lstm else (0,)
    return *map(new, shapes), *map(empty or new, _kept_shapes(mode, given) if save else ((0,),) * 4)


def _kept_shapes(mode: str, given: Inputs) -> tuple:
    """Of p, h, c and seen."""
    steps = *given.x.shape[:2], given.w_hh.shape[1]
    return given.x.shape, steps, steps if mode == "LSTM" else (0,), (0,) if given.mask is None else steps


def _forward(*arguments):
    given, (grad_norms, mode, reverse, *shares, save) = Inputs(*arguments[:_COUNT]), arguments[_COUNT:]
    _check(mode, given, grad_norms)
    (T, B, width), H, lstm, new = given.x.shape, given.w_hh.shape[1], mode == "LSTM", given.x.new_empty
    output, cs, h_n, c_n, p, h, c, seen = results = _new_results(mode, given, save, _reused(given))
    if not save:  # this step's and the next one's
        slots = min(2, T)
        p, h = new(slots, B, width), new(slots, B, H)
        c, seen = new(slots, B, H) if lstm else c, seen if given.mask is None else new(slots, B, H)
    masks, start = _masks(given), T - 1 if reverse else 0
    first, cut = start if save else start % 2, None if given.resets is None else masks["cut"][start].unsqueeze(-1)
    for state, before, back_to in ((h, given.h0, given.start_h), (c, given.c0, given.start_c))[: 1 + lstm]:
        state[first] = before if cut is None else torch.where(cut, 0 if back_to is None else back_to, before)
    if given.mask is not None:
        seen[first] = h[first] * given.mask
    tensors = _readable(given, masks, p, h, c, seen) | {"out": output, "h_n": h_n}
    tensors |= {"cs": cs, "c_n": c_n} if lstm else {}
    _call("forward", mode, given.x.dtype, (T, B, H), save, reverse, shares, tensors)
    return results


def _reused(given: Inputs) -> Any:
    """`empty(shape)` for what does not outlive the backward pass: if large, it would leave holes in the heap."""
    return functools.partial(library.empty, dtype=given.x.dtype)


def _masks(given: Inputs) -> dict[str, Tensor | None]:
    """Of every step and sequence (T, B): whether it is in the sequence, and whether the state is cut before it."""
    alive, cut = None, given.resets
    if given.lengths is not None:
        alive = torch.arange(given.x.shape[0], device=given.lengths.device).unsqueeze(1) < given.lengths
        cut = None if cut is None else cut & alive
    return {"alive": alive, "cut": cut}


def _readable(given: Inputs, masks: dict, p: Tensor, h: Tensor, c: Tensor, seen: Tensor) -> dict[str, Tensor | None]:
    names = ("x", "w_hh", "b_hh", "gain_hh", "gain_c", "bias_c", "start_h", "start_c", "mask", "stay_h", "stay_c")
    kept = {"p": p, "h": h, "c": None if given.c0 is None else c, "seen": h if given.mask is None else seen}
    return {name: getattr(given, name) for name in names} | masks | kept


def _backward(*arguments):
    incoming, given = arguments[:4], Inputs(*arguments[4 : 4 + _COUNT])
    p, h, c, seen, mode, reverse, *shares, wants_norms = arguments[4 + _COUNT :]
    _check(mode, given, None, incoming)
    (T, B, width), H, lstm = given.x.shape, given.w_hh.shape[1], mode == "LSTM"
    if p.numel() != given.x.numel():  # forward did not know that it would be differentiated
        *_, p, h, c, seen = _forward(*given, None, mode, reverse, *shares, True)
    for kept, shape in zip((p, h, c, seen), _kept_shapes(mode, given), strict=True):
        expect(mode, "what forward kept", kept, shape, given.x.dtype, given.x.device)
    masks, zeros, start, nothing = _masks(given), given.x.new_zeros, T - 1 if reverse else 0, given.x.new_empty(0)
    d_out, d_cs, d_h_n, d_c_n = incoming
    empty = _reused(given)
    dx = empty(given.x.shape)
    dp = dx if given.gain_hh is None and mode != "GRU" else empty(given.x.shape)
    dh, dc = (zeros(B, H) if d is None else d.clone(memory_format=torch.contiguous_format) for d in (d_h_n, d_c_n))
    d_start = [None if part is None else zeros(B, H) for part in (given.start_h, given.start_c)]
    sums = zeros(torch.get_num_threads(), 2 * width + 2 * H)
    norms = zeros((2, T, B), dtype=torch.float32) if wants_norms else None
    tensors = _readable(given, masks, p, h, c, seen) | {"d_out": d_out, "d_cs": d_cs if lstm else None, "grad_norms": norms}
    into = {"dh": dh, "dc": dc if lstm else None, "dx": dx, "dp": dp, "sums": sums}
    into |= {"d_start_h": d_start[0], "d_start_c": d_start[1]}
    _call("backward", mode, given.x.dtype, (T, B, H), True, reverse, shares, tensors | into)
    through = dp[start] @ given.w_hh
    dh += through if given.mask is None else through * given.mask
    if masks["cut"] is not None:
        begin = masks["cut"][start].unsqueeze(-1)
        for gradient, back_to in ((dh, d_start[0]), (dc, d_start[1]))[: 1 + lstm]:
            if back_to is not None:
                back_to += gradient * begin
            gradient.masked_fill_(begin, 0)
    of_vectors = [part.clone() for part in sums.sum(0).split([width, width, H, H])]
    found = dx, dh, dc, outer(dp, h if given.mask is None else seen), *of_vectors, *d_start, norms
    there = (*given[:10], norms)
    return tuple(nothing.clone() if t is None else gradient for t, gradient in zip(there, found, strict=True))


def _backward_fake(*arguments):
    given, wants_norms = Inputs(*arguments[4 : 4 + _COUNT]), arguments[-1]
    new = given.x.new_empty
    gradients = (new(0) if t is None else new(t.shape) for t in given[:10])
    return *gradients, new((2, *given.x.shape[:2]) if wants_norms else (0,), dtype=torch.float32 if wants_norms else None)


# ---------------------------------------------------------------------------------------------------------- autograd


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    # All by autograd, which frees it after backward and sees when `resets` are written to in between.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_COUNT], *output[4:])
    ctx.grad_norms, *ctx.how, _ = inputs[_COUNT:]


def _differentiate(ctx: Any, *incoming: Tensor | None, tensors: Any = None) -> tuple:
    tensors = ctx.saved_tensors if tensors is None else tensors
    (d_out, d_cs, d_h_n, d_c_n, *_), nothing = incoming, (None,) * (_COUNT + 6)
    given = Inputs(*tensors[:_COUNT])
    incoming = (d_out, d_cs, d_h_n, d_c_n) if ctx.how[0] == "LSTM" else (d_out, None, d_h_n, None)
    if not any(d is not None for d in incoming):
        return nothing
    if torch.is_grad_enabled():  # create_graph: the definition can be differentiated again
        return *_by_definition(ctx, given, incoming), *nothing[10:]
    backward = torch.ops.unrolled.regularised_backward if context.watched((*incoming, *tensors)) else _backward
    *found, norms = backward(*incoming, *tensors, *ctx.how, ctx.grad_norms is not None)
    if ctx.grad_norms is not None:
        ctx.grad_norms.copy_(norms)
    return *(None if t is None else d for t, d in zip(given, found, strict=False)), *nothing[10:]


def _by_definition(ctx: Any, given: Inputs, incoming: tuple) -> tuple:
    """The gradients through `definition.run_gates`, themselves differentiable."""
    # As tensors of this call alone: one may come from another, such as a carried state from the weights, by a way that is
    # not this call's to differentiate.
    given = Inputs(*(None if t is None else t.view_as(t) for t in given))
    mode, reverse, *shares = ctx.how
    norms = None
    if given.gain_hh is not None:
        norms = Norms(given.gain_hh, given.gain_hh, None if given.gain_c is None else Norm(given.gain_c, given.bias_c))
    stays = (share if stay is None else stay for share, stay in zip(shares, (given.stay_h, given.stay_c), strict=True))
    options = StepOptions(norms, given.mask, *stays, (given.start_h, given.start_c))
    masks = {"lengths": given.lengths, "resets": given.resets, "reverse": reverse, "grad_norms": ctx.grad_norms}
    results = definition.run_gates(mode, given.x, given.h0, given.c0, given.w_hh, given.b_hh, **masks, options=options)
    pairs = [(r, d) for r, d in zip(results, incoming, strict=True) if r is not None and d is not None]
    leaves = given[:10]
    inputs = [t for t in leaves if t is not None and t.requires_grad]
    ends, seeds = [r for r, _ in pairs], [d for _, d in pairs]
    found = iter(torch.autograd.grad(ends, inputs, seeds, create_graph=True, allow_unused=True))
    return tuple(next(found) if t is not None and t.requires_grad else None for t in leaves)


class _Direct(torch.autograd.Function):
    """The same without the operator, where nothing but autograd's backward pass has to see it."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        results = _forward(*inputs)
        _save_for_backward(ctx, saved.aliases(ctx, inputs, _WEIGHTS), results)
        return results

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor | None) -> Any:
        tensors = saved.differentiable(ctx, ctx.saved_tensors) if torch.is_grad_enabled() else ctx.saved_tensors
        return _differentiate(ctx, *incoming, tensors=tensors)


_library.impl("regularised", _forward, "CPU")
_library.impl("regularised_backward", _backward, "CPU")
torch.library.register_fake("unrolled::regularised", _forward_fake, lib=_library)
torch.library.register_fake("unrolled::regularised_backward", _backward_fake, lib=_library)
torch.library.register_autograd("unrolled::regularised", _differentiate, setup_context=_save_for_backward, lib=_library)


# ----------------------------------------------------------------------------------------------------- the library's call


def _call(
    which: str,
    mode: str,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    kept: bool,
    reverse: bool,
    shares: list[float],
    tensors: dict[str, Tensor | None],
) -> None:
    """Run `forward` or `backward` on checked CPU tensors, contiguous where they are written."""
    args = _Args(MODES[mode].number, library.DTYPES.index(dtype), torch.get_num_threads(), kept, reverse, 0, *sizes, *shares)
    readable = {name: t.contiguous() for name, t in tensors.items() if t is not None}  # alive until the library is done
    context.require_memory(readable)
    for name, tensor in readable.items():
        setattr(args, name, tensor.data_ptr())
    code = library.function(f"regularised_{which}", _Args, _POINTER)(ctypes.byref(args))
    if code == -1:
        raise MemoryError(f"no memory for the {which} pass of a regularised layer")
    if code:
        raise RuntimeError(f"the compiled {which} pass refused the call")
