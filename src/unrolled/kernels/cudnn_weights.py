"""The layout of weights that cuDNN reads: all of a stack of layers in one allocation. Others PyTorch copies at every call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.backends.cudnn import rnn as cudnn_rnn

from unrolled.cells import MODES

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GAP = 128  # bytes that cuDNN may leave free between two weights, to align the second


class Stack(NamedTuple):
    """The layers that one call of PyTorch's operator computes."""

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


def flatten(mode: str, weights: Sequence[Sequence[Tensor]], bidirectional: bool) -> None:
    """Move the weights of each layer and direction, as torch.nn has them, into one allocation as cuDNN reads them.

    It would copy them at every call, and PyTorch would warn of that. Elsewhere than on CUDA there is nothing to do.
    """
    stack = Stack(mode, len(weights) // (1 + bidirectional), bidirectional)
    _flatten(stack, [weight for one in weights for weight in one])


def as_read(stack: Stack, weights: Sequence[Tensor], dtype: torch.dtype | None) -> Sequence[Tensor]:
    """The weights in this dtype as the operators read them: themselves, or copies, which autograd knows to be copies."""
    if dtype is None and (not _cudnn_reads(weights) or _are_flat(stack, weights)):
        return weights
    copies = [weight.to(dtype or weight.dtype, copy=True) for weight in weights]
    _flatten(stack, copies)
    return copies


def _flatten(stack: Stack, weights: Sequence[Tensor]) -> None:
    if not _cudnn_reads(weights) or _are_flat(stack, weights):
        return
    each = len(weights) // stack.single_layers
    w_ih, w_hh = weights[:2]
    projected = weights[each - 1].shape[0] if each % 2 else 0
    mode, hidden = cudnn_rnn.get_cudnn_mode(stack.mode), w_hh.shape[0] // MODES[stack.mode].gates
    sizes = (w_ih.shape[1], mode, hidden, projected, stack.layers)
    with torch.no_grad():
        torch._cudnn_rnn_flatten_weight(tuple(weights), each, *sizes, False, stack.bidirectional)  # type: ignore[attr-defined]


def _cudnn_reads(weights: Sequence[Tensor]) -> bool:
    return all(w.is_cuda and w.dtype in _DTYPES for w in weights) and torch.backends.cudnn.is_available()


def _are_flat(stack: Stack, weights: Sequence[Tensor]) -> bool:
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
