"""Weights as backward is to read them: their numbers at the time of the call.

Autograd saves a leaf as the tensor itself, and `p.data = other` gives it other memory: the gradients would be of numbers that
were not multiplied with. An alias keeps the memory, and the version counter, by which autograd sees what is written in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def aliases(ctx: Any, tensors: tuple, weights: Iterable[int]) -> list:
    """`tensors`, with aliases of what is a leaf in the places `weights`; the leaves themselves stay in `ctx.leaves`."""
    found, ctx.leaves = list(tensors), {}
    for k in weights:
        if (t := found[k]) is not None and t.is_leaf:
            ctx.leaves[k], found[k] = t, t.detach()
    return found


def differentiable(ctx: Any, saved: tuple) -> tuple:
    """What `aliases` gave, with their leaves' place in the graph, to be differentiated again."""
    return tuple(with_numbers(ctx.leaves[k], t) if k in ctx.leaves else t for k, t in enumerate(saved))


def with_numbers(leaf: Tensor, numbers: Tensor) -> Tensor:
    """The leaf, with these numbers."""
    return leaf if leaf.is_set_to(numbers) else _Numbers.apply(leaf, numbers)  # type: ignore[return-value]


class _Numbers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, numbers: Tensor) -> Tensor:
        return numbers.view_as(numbers)

    @staticmethod
    def backward(ctx: Any, *d: Tensor) -> Any:
        return d[0], None
