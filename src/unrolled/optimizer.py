"""AdamW as training uses it, and the learning rate of each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from unrolled.config import TrainingConfig
from unrolled.task import Counters


def build(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with decay for matrices only; a parameter with a `learning_rate_share` learns at that share of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        decay = config.weight_decay if p.dim() >= 2 else 0.0
        groups.setdefault((getattr(p, "learning_rate_share", 1.0), decay), []).append(p)
    several = [{"params": some, "share": share, "weight_decay": decay} for (share, decay), some in groups.items()]
    return torch.optim.AdamW(several, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Make the moments that AdamW makes at the first step, so that a checkpoint has them from the beginning.

    Of a parameter without a gradient (a CNN that learns later) they stay as they are here.
    """
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.requires_grad:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of every group, each by its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def learning_rate(config: TrainingConfig, counters: Counters) -> float:
    """Linear warm-up, then half a cosine down to zero at the end of the steps or of the seconds, whichever is nearer.

    >>> config = TrainingConfig(max_steps=1000, warmup_steps=100, learning_rate=1.0)
    >>> [round(learning_rate(config, Counters(step=step)), 3) for step in (0, 49, 99, 500, 999)]
    [0.01, 0.497, 0.976, 0.5, 0.0]
    """
    done = counters.step / config.max_steps
    if config.max_seconds:
        done = max(done, counters.seconds / config.max_seconds)
    warm = min(1.0, (counters.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
