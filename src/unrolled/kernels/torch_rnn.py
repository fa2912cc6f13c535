"""PyTorch's own fused operators over whole sequences: cuDNN's on CUDA, and what serves where our kernels were not built.

They read forwards, know no resets, and take sequences of unequal lengths packed: `packed_segments.py` lays out both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import definition
from .context import autocast_dtype
from .cudnn_weights import Stack, as_read
from .packed_segments import PackedSegments

_CUDNN_NODE = "CudnnRnnBackward0"


def run(
    mode: str,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    weights: Sequence[Sequence[Tensor]],
    *,
    bidirectional: bool = False,
    packed: PackedSegments | None = None,
    reverse: bool = False,
    start: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A stack of layers over x (T, B, I) from h (L*D, B, H or proj_size) and c (L*D, B, H): (output, h_n, c_n).

    weights are torch.nn's of each layer and direction, in its order. `packed` says of lengths and resets, in the direction that
    a single layer reads in (`reverse`), or in a stack's first; its second can only have lengths. A reset goes back to `start`,
    a single layer's h and c (B, H), where that is given.
    """
    dtype = autocast_dtype(x.device)
    stack = Stack(mode, len(weights) // (1 + bidirectional), bidirectional)
    flat = as_read(stack, [weight for one in weights for weight in one], dtype)
    if dtype is not None:  # ours to do: PyTorch makes cuDNN's float16, whatever autocast was asked for
        x, h, c, *start = (None if t is None else t.to(dtype) for t in (x, h, c, *start))  # type: ignore[assignment]
    h0 = [h] if c is None else [h, c]
    with torch.autocast(x.device.type, enabled=False) if dtype is not None else nullcontext():
        T, B = x.shape[:2]
        if packed is None:
            output, *last = _operator(stack, x.flip(0) if reverse else x, None, h0, flat)
            h_n, *c_n = last
            return output.flip(0) if reverse else output, h_n, c_n[0] if c_n else None
        # Only rows that are computed are read: a NaN behind a sequence's end reaches neither output nor gradient.
        steps = x.flatten(0, 1).index_select(0, packed.rows)  # (N, I)
        begins = []
        for part, begin in zip(h0, start, strict=False):
            fresh = 0 if begin is None else begin.index_select(0, packed.owner)
            begins.append(torch.where(packed.carries, part.index_select(1, packed.owner), fresh))
        data, *last = _operator(stack, steps, packed.batch_sizes, begins, flat)
        output = data.new_zeros(T * B, data.shape[1]).index_copy(0, packed.rows, data).view(T, B, -1)
        last = [torch.where(packed.started, new.index_select(1, packed.last), old) for new, old in zip(last, h0, strict=True)]
        h_n, *c_n = last
        return output, h_n, c_n[0] if c_n else None


def _operator(
    stack: Stack, x: Tensor, batch_sizes: Tensor | None, h0: list[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """torch's: (output, h_n) or (output, h_n, c_n) of x (T, B, I), or (N, I) with the batch sizes of its steps."""
    operator = getattr(torch._VF, stack.mode.lower())  # type: ignore[attr-defined]
    dropout, batch_first = 0.0, False
    # Whether backward may come. A trace says yes: it is run later, with or without gradients, and checked without.
    trains = torch.is_grad_enabled() or torch._C._get_tracing_state() is not None
    how = (list(weights), stack.has_biases(weights), stack.layers, dropout, trains, stack.bidirectional)
    hx = [part.contiguous() for part in h0]
    state = hx if len(hx) == 2 else hx[0]
    layout = (x, state, *how, batch_first) if batch_sizes is None else (x, batch_sizes, state, *how)
    results = operator(*layout)
    node = results[0].grad_fn
    if node is not None and node.name() == _CUDNN_NODE:
        node.register_hook(_second_derivatives(stack, x, batch_sizes, h0, weights))
    return results


def _second_derivatives(
    stack: Stack, x: Tensor, batch_sizes: Tensor | None, h0: list[Tensor], weights: Sequence[Tensor]
) -> Callable[[Any, Any], Any]:
    """What gives cuDNN's backward pass a derivative of its own, which it has not: where that is asked for
    (`create_graph=True`), the gradients of x, the weights and h0 come from the definition instead."""

    def hook(gradients: tuple[Tensor | None, ...], arrived: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        if not torch.is_grad_enabled():
            return None
        steps = [x.shape[1]] * x.shape[0] if batch_sizes is None else batch_sizes.tolist()
        # As tensors of this call alone: a state that is carried over comes from the same weights, by a way that is not this
        # call's to differentiate.
        inputs = [t.view_as(t) for t in (x, *weights, *h0)]
        own_x, own_weights, own_h0 = inputs[0], inputs[1 : 1 + len(weights)], inputs[1 + len(weights) :]
        rows, *last = _by_definition(stack, own_x.reshape(-1, x.shape[-1]), steps, own_h0, own_weights)
        results = [rows.view(*x.shape[:-1], -1), *last]
        pairs = [(r, d) for r, d in zip(results, arrived, strict=False) if d is not None]
        wanted = [one for one, gradient in zip(inputs, gradients, strict=False) if gradient is not None]
        how = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        found = iter(torch.autograd.grad([r for r, _ in pairs], wanted, [d for _, d in pairs], **how))
        mended = [None if g is None else next(found) for g in gradients[: len(inputs)]]
        return *mended, *gradients[len(inputs) :]

    return hook


def _by_definition(
    stack: Stack, rows: Tensor, batch_sizes: list[int], h0: list[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The packed rows (N, I) through the cells: the last layer's h of every step, and the last h and c of all."""
    each, directions, ended = len(weights) // stack.single_layers, stack.directions, list[list[Tensor]]()
    for layer in range(stack.layers):
        outputs = []
        for number in range(layer * directions, (layer + 1) * directions):
            state = [part[number] for part in h0]
            output, state = _direction(
                stack.mode, rows, batch_sizes, state, weights[number * each :][:each], number % directions == 1
            )
            outputs.append(output)
            ended.append(state)
        rows = torch.cat(outputs, -1)
    return rows, *(torch.stack([state[part] for state in ended]) for part in range(len(h0)))


def _direction(
    mode: str, rows: Tensor, batch_sizes: list[int], state: list[Tensor], weights: Sequence[Tensor], reverse: bool
) -> tuple[Tensor, list[Tensor]]:
    w_ih, w_hh, *others = weights
    b_ih, b_hh = others[:2] if len(others) >= 2 else (None, None)
    w_hr = others[-1] if len(others) % 2 else None
    outputs, turn = [], -1 if reverse else 1
    for x_t in linear(rows, w_ih, b_ih).split(batch_sizes)[::turn]:
        now = [part[: len(x_t)] for part in state]  # backwards, more and more sequences begin: from their h0
        h, c = definition.step(mode, x_t, now[0], now[1] if len(now) == 2 else None, w_hh, b_hh)
        h = h if w_hr is None else linear(h, w_hr)
        outputs.append(h)
        state = [torch.cat([new, old[len(x_t) :]]) for new, old in zip((h, c), state, strict=False)]  # type: ignore[list-item]
    return torch.cat(outputs[::turn]), state
