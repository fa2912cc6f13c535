"""Losses over the steps of a sequence."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The temporal softmax loss in nats per token: -log softmax(logits)[target], averaged over every step and sequence.

    logits (..., V) and targets (...) of the same leading axes. Computed in fp32 whatever the logits are.

    >>> import torch
    >>> token_loss(torch.zeros(2, 3, 10), torch.zeros(2, 3, dtype=torch.int64)).exp()
    tensor(10.)
    """
    return cross_entropy(logits.flatten(0, -2).float(), targets.flatten())
