"""Nats per image: the loss in training, and the same measured over many images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.task import Processes, Step
from unrolled.tasks.drawing.draw import Draw

AT_ONCE = 256
"""Images, times samples, that are measured together,"""
NUMBERS = 2**24
"""and of a PixelRNN at most as many as have this many numbers in a tensor."""


def training_loss(model: Any, batch: dict[str, Tensor]) -> Step:
    """The mean over the images: of DRAW the bound, of a PixelRNN -log P."""
    images = batch["images"]
    if isinstance(model, Draw):
        bound = model(images, batch["labels"])
        parts = {"reconstruction": float(bound.reconstruction.detach().mean()), "kl": float(bound.kl.detach().mean())}
        return Step((bound.reconstruction + bound.kl).mean(), len(images), report=parts)
    return Step(-model.log_likelihood(images).mean(), len(images))


@torch.inference_mode()
def measure(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    samples: int = 1,
    processes: Processes | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Nats per image of (N, C, height, width), levels, and in bits per dimension (log2, divided by C * height * width).

    - A PixelRNN: `loss` and `bits_per_dimension`, exact.
    - DRAW: `loss`, the bound, with its two parts `reconstruction` and `kl`, means over `samples` passes; with several of them
      also `importance_weighted`, -log of the mean over K samples of P(x, z) / Q(z | x) (Burda, Grosse and Salakhutdinov 2016,
      eq. 8), which is nearer to -log P(x) from above the larger K. The noise is the same every time.

    `report` is called with how many images are done, and the total. Several `processes` take some of the images each.
    """
    model.eval()
    processes = processes or Processes()
    device = next(model.parameters()).device
    size = max(1, AT_ONCE // samples if isinstance(model, Draw) else min(AT_ONCE, NUMBERS // model.numbers_per_image))
    starts = [*range(0, len(images), size)][processes.index :: processes.count]
    totals: dict[str, float] = {}
    for number, start in enumerate(starts):
        x = torch.from_numpy(np.array(images[start : start + size])).float().to(device)
        if isinstance(model, Draw):
            nats = _of_draw(model, x, torch.from_numpy(np.array(labels[start : start + size])).to(device), samples, start)
        else:
            nats = {"loss": -model.log_likelihood(x)}
        for name, value in nats.items():
            totals[name] = totals.get(name, 0.0) + float(value.double().sum())
        if report:
            report(min(len(images), (number + 1) * size * processes.count), len(images))
    gathered = processes.gather(totals)
    means = {name: sum(one.get(name, 0.0) for one in gathered) / len(images) for name in max(gathered, key=len)}
    bits = math.log(2) * math.prod(images.shape[1:])
    means["bits_per_dimension"] = means["loss"] / bits
    if "importance_weighted" in means:
        means["importance_weighted_bits_per_dimension"] = means["importance_weighted"] / bits
    return means


def _of_draw(model: Draw, x: Tensor, labels: Tensor, samples: int, seed: int) -> dict[str, Tensor]:
    """(N,) each, from as many passes as fit together at a time."""
    generator = torch.Generator(x.device).manual_seed(seed)
    together = max(1, min(samples, AT_ONCE // len(x)))
    parts = []
    for begin in range(0, samples, together):
        count = min(together, samples - begin)
        bound = model(x.repeat(count, 1, 1, 1), labels.repeat(count), generator)
        parts.append([one.view(count, -1) for one in bound])
    reconstruction, kl, log_weight = (torch.cat(several) for several in zip(*parts, strict=True))  # (samples, N)
    nats = {"loss": (reconstruction + kl).mean(0), "reconstruction": reconstruction.mean(0), "kl": kl.mean(0)}
    if samples > 1:
        nats["importance_weighted"] = math.log(samples) - torch.logsumexp(log_weight.double(), 0)
    return nats
