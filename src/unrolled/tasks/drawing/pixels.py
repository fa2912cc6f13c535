"""What a canvas says of pixels: how probable their levels are, and what it looks like.

Images hold whole numbers as floats, levels from 0 to L - 1, and are brought to 0..1 by `brightness`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def brightness(images: Tensor, levels: int) -> Tensor:
    """Levels 0..L-1 -> 0..1."""
    return images / (levels - 1)


def log_probability(canvas: Tensor, images: Tensor, levels: int, log_scale: Tensor | None = None) -> Tensor:
    """log P of each image in nats, given a canvas: (N, C, height, width) twice -> (N,).

    Two levels: a Bernoulli of mean sigmoid(canvas) (Gregor et al. 2015, eq. 9). More: a logistic distribution around
    sigmoid(canvas), cut into L levels, the first and the last with the tails (Salimans et al. 2017, PixelCNN++, eq. 2);
    `log_scale` (C, 1, 1) is that of its width, of which the levels from 0 to L - 1 make 1.
    """
    if log_scale is None:
        return -binary_cross_entropy_with_logits(canvas, images, reduction="none").flatten(1).sum(1)
    half, scale = 0.5 / (levels - 1), log_scale.exp()
    apart = brightness(images, levels) - torch.sigmoid(canvas)
    above, below = (apart + half) / scale, (apart - half) / scale
    # log(sigmoid(above) - sigmoid(below)), which as it stands would be log 0 far from the mean
    between = logsigmoid(above) + logsigmoid(-below) + torch.log(-torch.expm1(-2 * half / scale))
    ends = torch.where(images < 0.5, logsigmoid(above), logsigmoid(-below))
    return torch.where((images < 0.5) | (images > levels - 1.5), ends, between).flatten(1).sum(1)


def canvas_of(mean: Tensor) -> Tensor:
    """The canvas whose mean is `mean`, 0..1: its logit, kept from the ends."""
    return torch.logit(mean.clamp(1e-3, 1 - 1e-3))
