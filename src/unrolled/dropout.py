"""Dropout for sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LockedDropout(nn.Module):
    """Dropout of the same units at every step of a sequence (B, T, H): variational dropout (Gal and Ghahramani 2016).

    One mask for a whole sequence is also T times cheaper to draw than one for each step.

    >>> x = LockedDropout(0.5)(torch.ones(2, 3, 4))
    >>> bool((x == x[:, :1]).all())
    True
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.probability
        return x * (kept.to(x.dtype) / (1 - self.probability))
