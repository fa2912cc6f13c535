"""Losses over the steps of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The temporal softmax loss in nats per token: -log softmax(logits)[target], averaged over every step and sequence.

    logits (..., V) and targets (...) of the same leading axes, ids from 0 to V - 1. Computed in fp32 whatever the logits are.

    Raises:
        ValueError: targets of another number than logits.

    >>> import torch
    >>> token_loss(torch.zeros(2, 3, 10), torch.zeros(2, 3, dtype=torch.int64))  # log 10: each of 10 is equally likely
    tensor(2.3026)
    """
    return cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def smoothed_token_loss(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """(1 - smoothing) * -log p(target) + smoothing * the mean of -log p over the vocabulary, and -log p(target) alone; both in
    nats, summed over the tokens.

    Label smoothing (Szegedy et al. 2016, section 7) keeps a model from growing ever surer. logits (N, V), targets (N,).

    >>> loss, nats = smoothed_token_loss(torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64), smoothing=0.1)
    >>> loss, nats  # 3 log 10: where all are equally likely, smoothing changes nothing
    (tensor(6.9078), tensor(6.9078))
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    nats = -log_p.gather(-1, targets.unsqueeze(-1)).sum()
    return (1 - smoothing) * nats - smoothing * log_p.mean(-1).sum(), nats
