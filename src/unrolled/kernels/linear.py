"""`torch.nn.functional.linear` and `torch.nn.Linear` on the compiled kernels' own products, in fp32 and float64 on the CPU.

What a model has around its recurrent layers is products too. On a Zen 5 torch's reach 41% of the multiply-adds' peak and
these 68% to 95%, so that an output layer in training takes half the time.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor, nn

from . import context, library, saved

LEAST_ROWS, LEAST_PRODUCTS = 32, 2**20
"""Below these torch is as fast."""
_DTYPES = (torch.float32, torch.float64)


class _Args(ctypes.Structure):
    c_name = "unrolled_linear_args"
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("dtype", "threads", "back", "unused")),
        *((name, ctypes.c_int64) for name in ("rows", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "bias", "y", "d", "dx", "dw")),
    ]


_POINTER = ctypes.POINTER(_Args)


def _call(dtype: torch.dtype, sizes: tuple[int, int, int], tensors: dict[str, Tensor | None]) -> None:
    context.require_memory({name: tensor for name, tensor in tensors.items() if tensor is not None})
    args = _Args(library.DTYPES.index(dtype), torch.get_num_threads(), "d" in tensors, 0, *sizes)
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(args, name, tensor.data_ptr())
    if code := library.function("linear", _Args, _POINTER)(ctypes.byref(args)):
        raise MemoryError("no memory for a product") if code == -1 else RuntimeError("the compiled product refused the call")


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., inputs), w (outputs, inputs), bias (outputs,) -> (..., outputs).

    By torch where that is as fast (a few rows, whose time is that of moving w), under autocast, on other devices and dtypes,
    and where something wants to look into it (`context.watched`). What does not fit is refused as torch refuses it.
    """
    if (
        context.compiling()
        or not _fit(x, w, bias)
        or (rows := math.prod(x.shape[:-1])) < LEAST_ROWS
        or rows * w.numel() < LEAST_PRODUCTS
        or torch.is_autocast_enabled("cpu")
        or not library.available()
        or context.watched((x, w, bias))
    ):
        return torch.nn.functional.linear(x, w, bias)
    return _Linear.apply(x, w, bias)  # type: ignore[return-value]  # torch types apply as Any or None


def _fit(x: Tensor, w: Tensor, bias: Tensor | None = None) -> bool:
    """Whether shapes are those of a product, and all are of one dtype that is computed here, dense, on the CPU."""
    return (
        x.dtype in _DTYPES
        and all(t is None or (t.dtype is x.dtype and t.is_cpu and t.layout is torch.strided) for t in (x, w, bias))
        and w.dim() == 2
        and x.dim() > 0
        and x.shape[-1] == w.shape[1]
        and (bias is None or bias.shape == w.shape[:1])
    )


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`.

    >>> Linear(3, 4)(torch.randn(5, 2, 3)).shape
    torch.Size([5, 2, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def outer(d: Tensor, x: Tensor) -> Tensor:
    """d (..., outputs), x (..., inputs) -> the gradient of w, (outputs, inputs)."""
    return _backward(d.contiguous(), x.contiguous(), None, True)[1]


def _backward(d: Tensor, x: Tensor, w: Tensor | None, wants_w: bool) -> tuple[Tensor | None, Any]:
    inputs, outputs = x.shape[-1], d.shape[-1]
    dx = None if w is None else library.empty(x.shape, x.dtype)
    dw = x.new_empty(outputs, inputs) if wants_w else None
    rows = d.shape[:-1].numel()
    _call(d.dtype, (rows, inputs, outputs), {"d": d, "x": x, "w": w, "dx": dx, "dw": dw})
    return dx, dw


def _rows(t: Tensor) -> Tensor:
    return t.reshape(t.shape[:-1].numel(), t.shape[-1])  # not flatten, which gradients of several losses at once do not know


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(*saved.aliases(ctx, (x, w), [1]))  # not the contiguous ones, which have no derivative
        x, w = x.contiguous(), w.contiguous()
        y = library.empty((*x.shape[:-1], w.shape[0]), x.dtype)
        bias = None if bias is None else bias.contiguous()
        _call(x.dtype, (x.shape[:-1].numel(), x.shape[-1], w.shape[0]), {"x": x, "w": w, "bias": bias, "y": y})
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, w = saved.differentiable(ctx, ctx.saved_tensors) if torch.is_grad_enabled() else ctx.saved_tensors
        d, (wants_x, wants_w, wants_bias) = gradients[0].resolve_neg(), ctx.needs_input_grad
        # Operands are looked at again: what `.data` did to them since, no version counter has seen.
        fit = _fit(x, w) and d.dtype is x.dtype and d.shape == (*x.shape[:-1], len(w)) and not context.watched((d, x, w))
        if torch.is_grad_enabled() or not fit:  # create_graph: torch's can be differentiated again
            dx, dw = d @ w if wants_x else None, _rows(d).t() @ _rows(x) if wants_w else None
        else:
            dx, dw = _backward(d.contiguous(), x.contiguous(), w.contiguous() if wants_x else None, wants_w)
        return dx, dw, _rows(d).sum(0) if wants_bias else None
