"""`torch.nn.functional.linear` on the compiled kernels' own products, for what is not in the steps of regularised layers.

In fp32 and float64 on the CPU. On a Zen 5 torch's products took twice the time of these, and more of it than the steps did.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from . import native


class _Args(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("dtype", "threads", "back", "unused")),
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "y", "d", "dx", "dw")),
    ]


@functools.cache
def _function() -> Any:
    function = native._library().unrolled_linear
    function.argtypes = [ctypes.POINTER(_Args)]
    return function


def _call(dtype: torch.dtype, sizes: tuple[int, int, int], tensors: dict[str, Tensor | None]) -> None:
    args = _Args(native.DTYPES.index(dtype), torch.get_num_threads(), "d" in tensors, 0, *sizes)
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(args, name, tensor.data_ptr())
    if code := _function()(ctypes.byref(args)):
        raise MemoryError("no memory for a product") if code == -1 else RuntimeError("the compiled product refused the call")


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs), w (outputs, inputs), bias (outputs,) -> (..., outputs). Checks nothing."""
    return _Linear.apply(x, w, bias)  # type: ignore[return-value]


def outer(d: Tensor, x: Tensor) -> Tensor:
    """d (..., outputs), x (..., inputs) -> the gradient of w, (outputs, inputs)."""
    return _backward(d.contiguous(), x.contiguous(), None, True)[1]


def _backward(d: Tensor, x: Tensor, w: Tensor | None, wants_w: bool) -> tuple[Tensor | None, Any]:
    inputs, outputs = x.shape[-1], d.shape[-1]
    dx = None if w is None else torch.empty_like(x)
    dw = x.new_empty(outputs, inputs) if wants_w else None
    rows = d.shape[:-1].numel()
    _call(d.dtype, (rows, inputs, outputs), {"d": d, "x": x, "w": w, "dx": dx, "dw": dw})
    return dx, dw


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)  # as they came: a copy made here would have no derivative
        x, w = x.contiguous(), w.contiguous()
        y = x.new_empty(*x.shape[:-1], w.shape[0])
        bias = None if bias is None else bias.contiguous()
        _call(x.dtype, (x.shape[:-1].numel(), x.shape[-1], w.shape[0]), {"x": x, "w": w, "bias": bias, "y": y})
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        d, (wants_x, wants_w, wants_bias) = gradients[0], ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: these can be differentiated again
            dx, dw = d @ w if wants_x else None, d.flatten(0, -2).t() @ x.flatten(0, -2) if wants_w else None
        else:
            dx, dw = _backward(d.contiguous(), x.contiguous(), w.contiguous() if wants_x else None, wants_w)
        return dx, dw, d.flatten(0, -2).sum(0) if wants_bias else None
