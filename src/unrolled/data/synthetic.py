"""Sequences made up to need a long memory: the adding problem and copy memory, without end, each batch new."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SYMBOLS, COPIED = 8, 10
"""Of copy memory: how many symbols there are, and how many of them have to be kept."""
BLANK, GO = SYMBOLS, SYMBOLS + 1
CLASSES = SYMBOLS + 2


class Batch(NamedTuple):
    inputs: Tensor
    """(T, B, 2) numbers and marks, or (T + 20, B) symbols."""
    targets: Tensor
    """(B,) sums, or (T + 20, B) symbols."""


def adding(steps: int, batch_size: int, generator: torch.Generator) -> Batch:
    """The adding problem: of T numbers between 0 and 1, two are marked by a 1 beside them; the target is their sum.

    Hochreiter and Schmidhuber 1997, experiment 4, with one mark in each half, as Arjovsky, Shah and Bengio 2016 have it.

    Raises:
        ValueError: fewer than 2 steps.

    >>> x, y = adding(5, 3, torch.Generator().manual_seed(0))
    >>> x.shape, bool(torch.allclose((x[..., 0] * x[..., 1]).sum(0), y))
    (torch.Size([5, 3, 2]), True)
    """
    if steps < 2:
        raise ValueError(f"the adding problem marks two steps: expected at least 2, got {steps}.")
    numbers = torch.rand(steps, batch_size, generator=generator)
    first = torch.randint(0, steps // 2, (1, batch_size), generator=generator)
    second = torch.randint(steps // 2, steps, (1, batch_size), generator=generator)
    marks = torch.zeros(steps, batch_size).scatter_(0, torch.cat([first, second]), 1.0)
    return Batch(torch.stack([numbers, marks], -1), (numbers * marks).sum(0))


def adding_baseline() -> float:
    """The mean squared error of always saying 1: the variance of two independent uniform numbers' sum, 2/12.

    Papers print 0.1767 for it (Le, Jaitly and Hinton 2015; Bai, Kolter and Koltun 2018) or 0.167 (Arjovsky et al. 2016).
    """
    return 1 / 6


def copy_memory(steps: int, batch_size: int, generator: torch.Generator) -> Batch:
    """Copy memory: ten symbols of eight, T - 1 blanks, a sign to begin, ten blanks; the target is blank, then the ten symbols.

    Hochreiter and Schmidhuber 1997; in this form Arjovsky, Shah and Bengio 2016, section 4.1.

    Raises:
        ValueError: no step between.

    >>> x, y = copy_memory(3, 1, torch.Generator().manual_seed(0))
    >>> x.shape, bool((x[:10] == y[-10:]).all()), x[10:].T.tolist(), bool((y[:-10] == BLANK).all())
    (torch.Size([23, 1]), True, [[8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]], True)
    """
    if steps < 1:
        raise ValueError(f"copy memory expected at least 1 step between symbols and copy, got {steps}.")
    symbols = torch.randint(0, SYMBOLS, (COPIED, batch_size), generator=generator)
    blank = torch.full((steps + COPIED, batch_size), BLANK)
    inputs = torch.cat([symbols, blank])
    inputs[COPIED + steps - 1] = GO
    return Batch(inputs, torch.cat([blank, symbols]))


def copy_baseline(steps: int) -> float:
    """The cross-entropy, in nats a step, of blanks and then a guess among eight: 10 ln 8 / (T + 20).

    >>> round(copy_baseline(100), 4)
    0.1733
    """
    return COPIED * math.log(SYMBOLS) / (steps + 2 * COPIED)
