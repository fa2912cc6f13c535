"""Sequences of regularised steps on the CPU: kernels that leave room in each step for what regularises it.

For layer normalisation, recurrent dropout, zoneout and resets to a learned state, in fp32 and float64. Kept for backward: the
input's and the state's part of the gates, and the state before each step; the rest of a step is computed again. The
equations are in csrc/regularised.hpp.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from unrolled.cells import MODES, Norm, Norms
from unrolled.options import StepOptions

from . import definition, library, sequence
from .linear import outer

_FIELDS = [
    *(
        "x",
        "w_hh",
        "p",
        "b_hh",
        "gain_hh",
        "gain_c",
        "bias_c",
        "mask",
        "stay_h",
        "stay_c",
        "alive",
        "cut",
        "start_h",
        "start_c",
    ),
    *("h", "c", "seen", "out", "cs", "h_n", "c_n", "d_out", "d_cs", "dh", "dc", "dx", "dp", "d_start_h", "d_start_c"),
    *("sums", "grad_norms"),
]


class _Args(ctypes.Structure):
    c_name = "unrolled_regularised_args"
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("mode", "dtype", "threads", "kept", "reverse", "unused")),
        *((name, ctypes.c_int64) for name in ("T", "B", "H")),
        *((name, ctypes.c_double) for name in ("share_h", "share_c")),
        *((name, ctypes.c_void_p) for name in _FIELDS),
    ]


# The inputs of `_Sequence` that have gradients.
_NAMES = ("x_gates", "h0", "c0", "w_hh", "b_hh", "gain_hh", "gain_c", "bias_c", "initial_h", "initial_c")
_INPUTS = len(_NAMES)


@functools.cache
def _function(which: str) -> Any:
    compiled = library.loaded()
    library.check_layout(compiled, _Args)
    function = getattr(compiled, f"unrolled_regularised_{which}")
    function.argtypes = [ctypes.POINTER(_Args)]
    return function


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
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """`definition.run_gates`, faster: (output, cs, h_n, c_n) from x_gates (T, B, G*H)."""
    norms = options.norms
    gain_hh, norm_c = (None, None) if norms is None else (norms.hh, norms.c)
    gain_c, bias_c = (None, None) if norm_c is None else (norm_c.gain, norm_c.bias)
    bias_c = torch.zeros_like(gain_c) if bias_c is None and gain_c is not None else bias_c
    start_h, start_c = options.reset_to if resets is not None else (None, None)
    tensors = (x_gates, h, c, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c)
    (_, batch, gates), hidden = x_gates.shape, x_gates.shape[-1] // MODES[mode].gates
    of_state, of_gates, of_units = (batch, hidden), (gates,), (hidden,)
    shapes = (x_gates.shape, of_state, of_state, (gates, hidden), of_gates, of_gates, of_units, of_units, of_state, of_state)
    for name, tensor, shape in zip(_NAMES, tensors, shapes, strict=True):
        sequence.expect(mode, name, tensor, shape, x_gates.dtype, x_gates.device)
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    how = (options.mask, options.zoneout_h, options.zoneout_c, lengths, resets, reverse, mode, grad_norms, wanted)
    output, cs, h_n, c_n = _Sequence.apply(*tensors, how)
    lstm = mode == "LSTM"
    return output, cs if lstm else None, h_n, c_n if lstm else None


class _Sequence(torch.autograd.Function):
    """All steps of one layer and direction, from the input's part of the gates."""

    @staticmethod
    def forward(ctx: Any, x_gates, h0, c0, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c, how):
        given = x_gates, h0, c0, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c
        mask, stay_h, stay_c, lengths, resets, reverse, mode, grad_norms, wanted = how
        (steps, batch, width), hidden, lstm = x_gates.shape, w_hh.shape[1], mode == "LSTM"
        order = list(range(steps))[:: -1 if reverse else 1]
        slots = steps if wanted else min(2, steps)
        new = x_gates.new_empty
        x_gates, w_hh = x_gates.contiguous(), w_hh.contiguous()
        p, h = new(slots, batch, width), new(slots, batch, hidden)
        c, seen = new(slots, batch, hidden) if lstm else None, h if mask is None else new(slots, batch, hidden)
        output, h_n = new(steps, batch, hidden), new(batch, hidden)
        cs, c_n = (new(steps, batch, hidden), new(batch, hidden)) if lstm else (new(0), new(0))
        alive, cut = _alive(steps, lengths), None if resets is None else resets.bool()
        if cut is not None and alive is not None:
            cut = cut & alive
        first = order[0] if wanted else order[0] % 2
        h[first], begin = h0, None if cut is None else cut[order[0]].unsqueeze(-1)
        if begin is not None:
            h[first] = torch.where(begin, 0 if start_h is None else start_h, h0)
        if c is not None:
            c[first] = c0 if begin is None else torch.where(begin, 0 if start_c is None else start_c, c0)
        if mask is not None:
            seen[first] = h[first] * mask
        shares = [0.0 if isinstance(stay, Tensor) else float(stay) for stay in (stay_h, stay_c)]
        masks = [stay.contiguous() if isinstance(stay, Tensor) else None for stay in (stay_h, stay_c)]
        sizes = mode, (steps, batch, hidden), wanted, reverse, shares
        tensors = {
            "x": x_gates,
            "w_hh": w_hh,
            "p": p,
            "b_hh": b_hh,
            "gain_hh": gain_hh,
            "gain_c": gain_c,
            "bias_c": bias_c,
            "mask": mask,
            "stay_h": masks[0],
            "stay_c": masks[1],
            "alive": alive,
            "cut": cut,
            "start_h": start_h,
            "start_c": start_c,
            "h": h,
            "c": c,
            "seen": seen,
        }
        results = {"out": output, "cs": cs if lstm else None, "h_n": h_n, "c_n": c_n if lstm else None}
        _call("forward", *sizes, tensors | results)
        ctx.set_materialize_grads(False)
        if wanted:  # all by autograd, which frees it after backward and sees when `resets` are written to in between
            ctx.save_for_backward(*given, lengths, resets, *tensors.values())
        ctx.sizes, ctx.names, ctx.first_step, ctx.grad_norms = sizes, list(tensors), order[0], grad_norms
        return output, cs, h_n, c_n

    @staticmethod
    def backward(ctx: Any, d_out, d_cs, d_h_n, d_c_n):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():  # create_graph: the definition can be differentiated again
            return _by_definition(ctx, (d_out, d_cs, d_h_n, d_c_n))
        d_out, d_cs, d_h_n, d_c_n = (None if d is None else d.resolve_neg() for d in (d_out, d_cs, d_h_n, d_c_n))
        mode, sizes, kept, reverse, shares = ctx.sizes
        tensors, grad_norms = dict(zip(ctx.names, ctx.saved_tensors[_INPUTS + 2 :], strict=True)), ctx.grad_norms
        x_gates, w_hh, b_hh, mask, seen, cut = (tensors[name] for name in ("x", "w_hh", "b_hh", "mask", "seen", "cut"))
        gain_hh, gain_c, start_h, start_c = (tensors[name] for name in ("gain_hh", "gain_c", "start_h", "start_c"))
        (_, batch, width), hidden, lstm = x_gates.shape, w_hh.shape[1], mode == "LSTM"
        zeros, first = x_gates.new_zeros, ctx.first_step
        dx = torch.empty_like(x_gates)
        dp = dx if gain_hh is None and mode != "GRU" else torch.empty_like(dx)
        dh = zeros(batch, hidden) if d_h_n is None else d_h_n.clone(memory_format=torch.contiguous_format)
        dc = None if not lstm else zeros(batch, hidden) if d_c_n is None else d_c_n.clone(memory_format=torch.contiguous_format)
        d_start = [None if part is None else zeros(batch, hidden) for part in (start_h, start_c)]
        sums = zeros(torch.get_num_threads(), 2 * width + 2 * hidden)
        norms = None if grad_norms is None else zeros(grad_norms.shape, dtype=torch.float32)
        gradients = {
            "d_out": d_out,
            "d_cs": d_cs if lstm else None,
            "dh": dh,
            "dc": dc,
            "dx": dx,
            "dp": dp,
            "sums": sums,
            "grad_norms": norms,
            "d_start_h": d_start[0],
            "d_start_c": d_start[1],
        }
        _call("backward", mode, sizes, kept, reverse, shares, tensors | gradients)
        q = dp[first] @ w_hh
        dh += q if mask is None else q * mask
        if cut is not None:
            begin = cut[first].unsqueeze(-1)
            for gradient, into in ((dh, d_start[0]), (dc, d_start[1])):
                if gradient is not None and into is not None:
                    into += gradient * begin
                if gradient is not None:
                    gradient.masked_fill_(begin, 0)
        d_w_hh = outer(dp, seen)
        db, d_gain, d_gain_c, d_bias_c = sums.sum(0).split([width, width, hidden, hidden])
        if norms is not None and grad_norms is not None:
            grad_norms.copy_(norms)
        return (
            dx,
            dh,
            dc,
            d_w_hh,
            None if b_hh is None else db,
            None if gain_hh is None else d_gain,
            *(None if gain_c is None else part for part in (d_gain_c, d_bias_c)),
            *d_start,
            None,
        )


def _by_definition(ctx: Any, incoming: tuple) -> tuple:
    """The gradients through `definition.run_gates`, themselves differentiable."""
    *saved, lengths, resets = ctx.saved_tensors[: _INPUTS + 2]
    # As tensors of this call alone: one may come from another, such as a carried state from the weights, by a way that is
    # not this call's to differentiate.
    saved: Any = [None if t is None else t.view_as(t) for t in saved]
    x_gates, h, c, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c = saved
    tensors, (mode, _, _, reverse, shares) = dict(zip(ctx.names, ctx.saved_tensors[_INPUTS + 2 :], strict=True)), ctx.sizes
    stay_h, stay_c = (
        share if tensors[name] is None else tensors[name] for name, share in zip(("stay_h", "stay_c"), shares, strict=True)
    )
    norms = None if gain_hh is None else Norms(gain_hh, gain_hh, None if gain_c is None else Norm(gain_c, bias_c))
    options = StepOptions(norms, tensors["mask"], stay_h, stay_c, (start_h, start_c))
    masks = {"lengths": lengths, "resets": resets, "reverse": reverse, "grad_norms": ctx.grad_norms}
    results = definition.run_gates(mode, x_gates, h, c, w_hh, b_hh, **masks, options=options)
    pairs = [(r, d) for r, d in zip(results, incoming, strict=True) if r is not None and d is not None]
    inputs = [t for t in saved if t is not None and t.requires_grad]
    ends, seeds = [r for r, _ in pairs], [d for _, d in pairs]
    found = iter(torch.autograd.grad(ends, inputs, seeds, create_graph=True, allow_unused=True))
    return (*(next(found) if t is not None and t.requires_grad else None for t in saved), None)


def _alive(steps: int, lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths  # (T, B)


def _call(
    which: str, mode: str, sizes: tuple, kept: bool, reverse: bool, shares: list[float], tensors: dict[str, Tensor | None]
) -> None:
    """Run `forward` or `backward` on CPU tensors of one floating dtype (masks are bytes), contiguous where they are written."""
    x = tensors["x"]
    assert x is not None
    args = _Args(MODES[mode].number, library.DTYPES.index(x.dtype), torch.get_num_threads(), kept, reverse, 0, *sizes, *shares)
    readable = {name: t.contiguous() for name, t in tensors.items() if t is not None}  # alive until the library is done
    for name, tensor in readable.items():
        setattr(args, name, tensor.data_ptr())
    code = _function(which)(ctypes.byref(args))
    if code == -1:
        raise MemoryError(f"no memory for the {which} pass of a regularised layer")
    if code:
        raise RuntimeError(f"the compiled {which} pass refused the call")
