"""PyTorch's own fused operators over whole sequences: cuDNN's on CUDA, and what serves where our kernels were not built.

They read forwards, know no resets, and take sequences of unequal lengths as a `PackedSequence` lays them out: step by step,
the longest first. That layout says everything: a sequence is cut at its resets into pieces, pieces are computed side by side
as if they were sequences, and the second direction lays them out from their ends.

    h_t of a piece starts from h_0 if the piece begins its sequence, from zeros (or a learned state) if a reset does
    h_n of a sequence is its last piece's
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.backends.cudnn import rnn as cudnn_rnn
from torch.nn.functional import linear

from unrolled.kernels import plain
from unrolled.kernels.ops import autocast_dtype

_CUDNN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GAP = 128  # bytes that cuDNN may leave free between two weights, to align the second
_CUDNN_NODE = "CudnnRnnBackward0"


class Pieces(NamedTuple):
    """Where the steps of a batch (T, B) stand when its pieces are laid out side by side, the longest first."""

    rows: Tensor
    """(N,) every step that is computed, as a row of x.view(T * B, ...)."""
    batch_sizes: Tensor
    """How many pieces have a first step, a second, and so on; int64 on the CPU, as PyTorch's operators want it."""
    owner: Tensor
    """(pieces,) the sequence that the piece is of."""
    carries: Tensor
    """(pieces, 1) whether the piece goes on from h_0 of its sequence, rather than from zeros."""
    last: Tensor
    """(B,) the piece that each sequence ends with; 0 where it has no step."""
    started: Tensor
    """(B, 1) whether the sequence has a step."""


def pieces(steps: int, lengths: Tensor | None, resets: Tensor | None, reverse: bool, device: torch.device) -> Pieces:
    """Cut a batch of sequences of up to T = `steps` steps; lengths (B,), not all 0, or resets (T, B), or both given.

    Made on the CPU, where PyTorch's operators want `batch_sizes`, with one wait for resets of another device.
    """
    if lengths is None:
        assert resets is not None
        lengths = torch.full((resets.shape[1],), steps)
    lengths, B = lengths.cpu(), lengths.shape[0]
    read = torch.arange(steps).expand(B, steps)  # (B, T): a sequence's steps in the order they are read
    alive = read < lengths[:, None]
    t = (lengths[:, None] - 1 - read).clamp_(min=0) if reverse else read
    cut = torch.zeros(B, steps, dtype=torch.bool) if resets is None else resets.cpu().t().gather(1, t)
    begins = ((read == 0) | cut) & alive
    first = begins.flatten().nonzero().squeeze(1)  # where pieces begin in (B * T)
    owner, begin = first // steps, first % steps
    carries = ~cut.flatten()[first]
    last = begins.sum(1).cumsum(0) - 1  # each sequence's last piece, if it has one
    stop = torch.where(torch.arange(len(first)) == last[owner], lengths[owner], begin.roll(-1))
    sizes, order = (stop - begin).sort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    batch_sizes = len(sizes) - torch.bincount(sizes).cumsum(0)[:-1]
    # Row n of the packed batch is step `place` of the piece of rank n - offset: where it comes from, step by step.
    place = torch.arange(len(batch_sizes)).repeat_interleave(batch_sizes)
    offset = batch_sizes.cumsum(0) - batch_sizes
    of = torch.arange(len(place)) - offset[place]
    owner, carries, begin = owner[order], carries[order], begin[order]
    at = begin[of] + place
    if reverse:
        at = lengths[owner[of]] - 1 - at
    started = lengths > 0
    last = torch.where(started, rank[last.clamp(min=0)], 0)
    there = (part.to(device) for part in (at * B + owner[of], owner, carries[:, None], last, started[:, None]))
    rows, *others = there
    return Pieces(rows, batch_sizes, *others)


def run(
    mode: str,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    weights: Sequence[Sequence[Tensor]],
    *,
    bidirectional: bool = False,
    cut: Pieces | None = None,
    reverse: bool = False,
    start: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A stack of layers over x (T, B, I) from h (L*D, B, H or proj_size) and c (L*D, B, H): (output, h_n, c_n).

    weights are torch.nn's of each layer and direction, in its order. `cut` says of lengths and resets, in the direction that a
    single layer reads in (`reverse`), or in a stack's first; its second can only have lengths. A reset goes back to `start`, a
    single layer's h and c (B, H), where that is given.
    """
    dtype = autocast_dtype(x.device)
    stack = _Stack(mode, len(weights) // (1 + bidirectional), bidirectional)
    flat = _laid_out(stack, [weight for one in weights for weight in one], dtype)
    if dtype is not None:  # ours to do: PyTorch makes cuDNN's float16, whatever autocast was asked for
        x, h, c, *start = (None if t is None else t.to(dtype) for t in (x, h, c, *start))  # type: ignore[assignment]
    h0 = [h] if c is None else [h, c]
    with torch.autocast(x.device.type, enabled=False) if dtype is not None else nullcontext():
        T, B = x.shape[:2]
        if cut is None:
            output, *last = _operator(stack, x.flip(0) if reverse else x, None, h0, flat)
            h_n, *c_n = last
            return output.flip(0) if reverse else output, h_n, c_n[0] if c_n else None
        # Only rows that are computed are read: a NaN behind a sequence's end reaches neither output nor gradient.
        packed = x.flatten(0, 1).index_select(0, cut.rows)  # (N, I)
        begins = []
        for part, begin in zip(h0, start, strict=False):
            fresh = 0 if begin is None else begin.index_select(0, cut.owner)
            begins.append(torch.where(cut.carries, part.index_select(1, cut.owner), fresh))
        data, *last = _operator(stack, packed, cut.batch_sizes, begins, flat)
        output = data.new_zeros(T * B, data.shape[1]).index_copy(0, cut.rows, data).view(T, B, -1)
        last = [torch.where(cut.started, new.index_select(1, cut.last), old) for new, old in zip(last, h0, strict=True)]
        h_n, *c_n = last
        return output, h_n, c_n[0] if c_n else None


class _Stack(NamedTuple):
    mode: str
    layers: int
    bidirectional: bool

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def single_layers(self) -> int:
        """How many of one direction it is made of."""
        return self.layers * self.directions

    def has_biases(self, weights: Sequence[Tensor]) -> bool:
        return len(weights) // self.single_layers >= 4


def in_one_piece(mode: str, weights: Sequence[Sequence[Tensor]], bidirectional: bool) -> None:
    """Move the weights of each layer and direction, as torch.nn has them, into one allocation as cuDNN reads them.

    It would copy them at every call, and PyTorch would warn of that. Elsewhere than on CUDA there is nothing to do.
    """
    stack = _Stack(mode, len(weights) // (1 + bidirectional), bidirectional)
    _move_together(stack, [weight for one in weights for weight in one])


def _laid_out(stack: _Stack, weights: Sequence[Tensor], dtype: torch.dtype | None) -> Sequence[Tensor]:
    """The weights in this dtype as the operators read them: themselves, or copies, which autograd knows to be copies."""
    if dtype is None and (not _cudnn_reads(weights) or _are_one_piece(stack, weights)):
        return weights
    copies = [weight.to(dtype or weight.dtype, copy=True) for weight in weights]
    _move_together(stack, copies)
    return copies


def _move_together(stack: _Stack, weights: Sequence[Tensor]) -> None:
    if not _cudnn_reads(weights) or _are_one_piece(stack, weights):
        return
    each = len(weights) // stack.single_layers
    w_ih, w_hh = weights[:2]
    projected = weights[each - 1].shape[0] if each % 2 else 0
    mode, hidden = cudnn_rnn.get_cudnn_mode(stack.mode), w_hh.shape[0] // plain.GATES[stack.mode]
    sizes = (w_ih.shape[1], mode, hidden, projected, stack.layers)
    with torch.no_grad():
        torch._cudnn_rnn_flatten_weight(tuple(weights), each, *sizes, False, stack.bidirectional)  # type: ignore[attr-defined]


def _cudnn_reads(weights: Sequence[Tensor]) -> bool:
    return all(w.is_cuda and w.dtype in _CUDNN_DTYPES for w in weights) and torch.backends.cudnn.is_available()


def _are_one_piece(stack: _Stack, weights: Sequence[Tensor]) -> bool:
    """Whether cuDNN can read them where they are: side by side in one allocation, in whatever order, and all that is there."""
    if len({weight.untyped_storage().data_ptr() for weight in weights}) != 1:  # neighbours by chance PyTorch copies too
        return False
    spans = sorted((weight.data_ptr(), weight.numel() * weight.itemsize) for weight in weights)
    if any(not 0 <= after - begin - size < _GAP for (begin, size), (after, _) in pairwise(spans)):
        return False
    if stack.has_biases(weights):
        return True
    # cuDNN reads biases all the same, zeros behind the weights. PyTorch asks only where the weights are, and behind a single
    # layer's of a stack stand the next one's.
    zeros = stack.single_layers * 2 * weights[1].shape[0] * weights[1].itemsize
    return weights[0].untyped_storage().nbytes() == sum(size for _, size in spans) + zeros


def _operator(
    stack: _Stack, x: Tensor, batch_sizes: Tensor | None, h0: list[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """torch's: (output, h_n) or (output, h_n, c_n) of x (T, B, I), or (N, I) with the batch sizes of its steps."""
    operator = getattr(torch._VF, stack.mode.lower())  # type: ignore[attr-defined]
    dropout, batch_first = 0.0, False
    how = (list(weights), stack.has_biases(weights), stack.layers, dropout, torch.is_grad_enabled(), stack.bidirectional)
    hx = [part.contiguous() for part in h0]
    state = hx if len(hx) == 2 else hx[0]
    layout = (x, state, *how, batch_first) if batch_sizes is None else (x, batch_sizes, state, *how)
    results = operator(*layout)
    node = results[0].grad_fn
    if node is not None and node.name() == _CUDNN_NODE:
        node.register_hook(_second_derivatives(stack, x, batch_sizes, h0, weights))
    return results


def _second_derivatives(
    stack: _Stack, x: Tensor, batch_sizes: Tensor | None, h0: list[Tensor], weights: Sequence[Tensor]
) -> Callable[[Any, Any], Any]:
    """What gives cuDNN's backward pass a derivative of its own, which it has not: where that is asked for
    (`create_graph=True`), the gradients of x, the weights and h0 come from the definition instead."""

    def hook(gradients: tuple[Tensor | None, ...], arrived: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        if not torch.is_grad_enabled():
            return None
        steps = [x.shape[1]] * x.shape[0] if batch_sizes is None else batch_sizes.tolist()
        rows, *last = _by_definition(stack, x.reshape(-1, x.shape[-1]), steps, h0, weights)
        results = [rows.view(*x.shape[:-1], -1), *last]
        pairs = [(r, d) for r, d in zip(results, arrived, strict=False) if d is not None]
        inputs = [x, *weights, *h0]
        wanted = [one for one, gradient in zip(inputs, gradients, strict=False) if gradient is not None]
        how = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        found = iter(torch.autograd.grad([r for r, _ in pairs], wanted, [d for _, d in pairs], **how))
        mended = [None if g is None else next(found) for g in gradients[: len(inputs)]]
        return *mended, *gradients[len(inputs) :]

    return hook


def _by_definition(
    stack: _Stack, rows: Tensor, batch_sizes: list[int], h0: list[Tensor], weights: Sequence[Tensor]
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
        h, c = plain.step(mode, x_t, now[0], now[1] if len(now) == 2 else None, w_hh, b_hh)
        h = h if w_hr is None else linear(h, w_hr)
        outputs.append(h)
        state = [torch.cat([new, old[len(x_t) :]]) for new, old in zip((h, c), state, strict=False)]  # type: ignore[list-item]
    return torch.cat(outputs[::turn]), state
