"""Making images: from nothing, from an image that is read, and the rest of one that is half hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrolled.tasks.drawing.draw import Draw, Drawn
from unrolled.tasks.drawing.pixels import brightness

AT_ONCE = 256
"""Images that are drawn together,"""
NUMBERS = 2**26
"""and of DRAW at most as many as have this many numbers in all their canvases."""


@torch.inference_mode()
def draw(model: Any, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """New images, (count, C, height, width), 0..1: DRAW's last canvases, whose pixels are means; a PixelRNN's pixels.

    labels (count,) where it is told the class. The first images do not depend on how many there are.
    """
    parts, generator, size = [], _generator(model, seed), AT_ONCE
    if isinstance(model, Draw):
        size = max(1, min(size, NUMBERS // ((model.steps + 1) * model.canvas.numel())))
    for begin in range(0, count, size):
        several = min(size, count - begin)
        if isinstance(model, Draw):
            told = None if labels is None else labels[begin : begin + several]
            parts.append(steps(model, several, seed, told, begin).canvases[-1])
        else:
            parts.append(brightness(model.sample(several, generator).float(), model.levels))
    return torch.cat(parts)


@torch.inference_mode()
def steps(model: Draw, count: int, seed: int, labels: Tensor | None = None, begin: int = 0) -> Drawn:
    """The canvases of new images on the way; labels (count,) where it is told the class."""
    device = model.canvas.device
    own = np.random.default_rng(seed).integers(2**63, size=begin + count)[begin:]  # a seed for each image
    latents = [torch.randn(model.steps, model.latent_size, generator=torch.Generator().manual_seed(int(each))) for each in own]
    return model.draw(torch.stack(latents, dim=1).to(device), None if labels is None else labels.to(device))


def row_by_row(images: Tensor) -> Drawn:
    """A PixelRNN's images (N, C, height, width), 0..1, after each row: what is not drawn yet is grey; the window is the row."""
    count, _, height, width = images.shape
    canvases = images.new_full((height + 1, *images.shape), 0.5)
    for row in range(height):
        canvases[row + 1 :, :, :, row] = images[:, :, row]
    windows = torch.tensor([[row, 0, row + 1, width] for row in range(height)])
    return Drawn(canvases, windows.unsqueeze(1).expand(-1, count, -1))


@torch.inference_mode()
def complete(model: Any, images: Tensor, seed: int) -> Tensor:
    """The lower half of images (N, C, height, width), levels, made anew by a PixelRNN from the upper; (N, C, height, width),
    0..1.
    """
    known = torch.zeros_like(images, dtype=torch.bool)
    known[:, :, : images.shape[2] // 2] = True
    found = model.sample(len(images), _generator(model, seed), given=images, known=known)
    return brightness(found.float(), model.levels)


def _generator(model: Any, seed: int) -> torch.Generator:
    return torch.Generator(next(model.parameters()).device).manual_seed(seed)
