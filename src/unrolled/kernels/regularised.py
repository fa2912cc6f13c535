"""StepOptions sequences on the CPU: kernels that leave room in each step for what regularises it.

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

from . import definition, library
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
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    how = (options.mask, options.zoneout_h, options.zoneout_c, lengths, resets, reverse, mode, grad_norms, wanted)
    output, cs, h_n, c_n = _Sequence.apply(*tensors, how)
    lstm = mode == "LSTM"
    return output, cs if lstm else None, h_n, c_n if lstm else None


class _Sequence(torch.autograd.Function):
    """All steps of one layer and direction, from the input's part of the gates."""

    @staticmethod
    def forward(ctx: Any, x_gates, h0, c0, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c, how):
        mask, stay_h, stay_c, lengths, resets, reverse, mode, _, wanted = how
        (steps, batch, width), hidden, lstm = x_gates.shape, w_hh.shape[1], mode == "LSTM"
        order = list(range(steps))[:: -1 if reverse else 1]
        slots = steps if wanted else min(2, steps)
        new = x_gates.new_empty
        x_gates, w_hh = x_gates.contiguous(), w_hh.contiguous()
        p, h = new(slots, batch, width), new(slots, batch, hidden)
        c, seen = new(slots, batch, hidden) if lstm else None, h if mask is None else torch.empty_like(h)
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
        call = _Call(
            mode,
            (steps, batch, hidden),
            wanted,
            reverse,
            shares,
            {
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
                "out": output,
                "cs": cs if lstm else None,
                "h_n": h_n,
                "c_n": c_n if lstm else None,
            },
        )
        call("forward")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x_gates, h0, c0, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c)
        ctx.how, ctx.call, ctx.order, ctx.seen = how, call if wanted else None, order, seen
        return output, cs, h_n, c_n

    @staticmethod
    def backward(ctx: Any, d_out, d_cs, d_h_n, d_c_n):  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():  # create_graph: the definition can be differentiated again
            return _by_definition(ctx, (d_out, d_cs, d_h_n, d_c_n))
        x_gates, _, _, w_hh, b_hh, gain_hh, gain_c, _, start_h, start_c = ctx.saved_tensors
        mask, *_, mode, grad_norms, _ = ctx.how
        (_, batch, width), hidden, lstm = x_gates.shape, w_hh.shape[1], mode == "LSTM"
        zeros, order, seen = x_gates.new_zeros, ctx.order, ctx.seen
        dx = torch.empty_like(x_gates)
        dp = dx if gain_hh is None and mode != "GRU" else torch.empty_like(dx)
        dh = zeros(batch, hidden) if d_h_n is None else d_h_n.clone(memory_format=torch.contiguous_format)
        dc = None if not lstm else zeros(batch, hidden) if d_c_n is None else d_c_n.clone(memory_format=torch.contiguous_format)
        d_start = [None if part is None else zeros(batch, hidden) for part in (start_h, start_c)]
        sums = zeros(torch.get_num_threads(), 2 * width + 2 * hidden)
        norms = None if grad_norms is None else torch.zeros(grad_norms.shape, dtype=torch.float32, device="cpu")
        call = ctx.call.with_tensors(
            {
                "d_out": None if d_out is None else d_out.contiguous(),
                "d_cs": None if d_cs is None or not lstm else d_cs.contiguous(),
                "dh": dh,
                "dc": dc,
                "dx": dx,
                "dp": dp,
                "sums": sums,
                "grad_norms": norms,
                "d_start_h": d_start[0],
                "d_start_c": d_start[1],
            }
        )
        call("backward")
        q = dp[order[0]] @ w_hh
        dh += q if mask is None else q * mask
        cut = ctx.call.tensors["cut"]
        if cut is not None:
            begin = cut[order[0]].unsqueeze(-1)
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
    x_gates, h, c, w_hh, b_hh, gain_hh, gain_c, bias_c, start_h, start_c = saved = ctx.saved_tensors
    mask, stay_h, stay_c, lengths, resets, reverse, mode, _, _ = ctx.how
    norms = None if gain_hh is None else Norms(gain_hh, gain_hh, None if gain_c is None else Norm(gain_c, bias_c))
    options = StepOptions(norms, mask, stay_h, stay_c, (start_h, start_c))
    masks = {"lengths": lengths, "resets": resets, "reverse": reverse}
    results = definition.run_gates(mode, x_gates, h, c, w_hh, b_hh, **masks, options=options)
    pairs = [(r, d) for r, d in zip(results, incoming, strict=True) if r is not None and d is not None]
    inputs = [t for t in saved if t is not None and t.requires_grad]
    ends, seeds = [r for r, _ in pairs], [d for _, d in pairs]
    found = iter(torch.autograd.grad(ends, inputs, seeds, create_graph=True, allow_unused=True))
    return (*(next(found) if t is not None and t.requires_grad else None for t in saved), None)


def _alive(steps: int, lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths  # (T, B)


class _Call:
    """The arguments of a pass, and what they point at."""

    def __init__(
        self, mode: str, sizes: tuple, kept: bool, reverse: bool, shares: list[float], tensors: dict[str, Tensor | None]
    ) -> None:
        x = tensors["x"]
        assert x is not None
        dtype = library.DTYPES.index(x.dtype)
        self.args = _Args(MODES[mode].number, dtype, torch.get_num_threads(), kept, reverse, 0, *sizes, *shares)
        # Kept alive here, and contiguous: the library reads what these point at.
        self.tensors = {name: None if t is None else t.detach().contiguous() for name, t in tensors.items()}
        for name, tensor in self.tensors.items():
            setattr(self.args, name, None if tensor is None else tensor.data_ptr())
        self.pointer = ctypes.byref(self.args)

    def with_tensors(self, more: dict[str, Tensor | None]) -> _Call:
        """The same call with more arguments, to be used alongside."""
        call = object.__new__(_Call)
        call.args, call.tensors = _Args.from_buffer_copy(self.args), self.tensors | more
        call.args.threads = torch.get_num_threads()
        for name, tensor in more.items():
            setattr(call.args, name, None if tensor is None else tensor.data_ptr())
        call.pointer = ctypes.byref(call.args)
        return call

    def __call__(self, which: str) -> None:
        code = _function(which)(self.pointer)
        if code == -1:
            raise MemoryError(f"no memory for the {which} pass of a regularised layer")
        if code:
            raise RuntimeError(f"the compiled {which} pass refused the call")
