"""Sizes and settings of captioning's tests: a model of random features, a run that trains in a moment."""

import torch

from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import Captioner

V, H, F, P = 11, 6, 10, 4
WAYS = ("initial", "every-step", "attention", "attention-between")
TINY = {
    "hidden_size": 32,
    "batch_size": 8,
    "minimum_count": 1,
    "max_steps": 12,
    "warmup_steps": 4,
    "evaluate_every": 6,
    "save_every": 6,
    "sample_every": 0,
    "dropout": 0.1,
}


def model(**how) -> Captioner:
    torch.manual_seed(0)
    return Captioner(Config(hidden_size=H, **how), V, F).double().eval()
