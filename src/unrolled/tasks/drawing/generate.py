"""Making images: from nothing, from an image that is read, and the rest of one that is half hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.tasks.drawing.draw import Draw, Drawn
from unrolled.tasks.drawing.pixels import brightness

AT_ONCE = 256


@torch.inference_mode()
def draw(model: Any, count: int, seed: int, labels: Tensor | None = None) -> Tensor:
    """New images, (count, C, height, width), 0..1: DRAW's last canvases, whose pixels are means; a PixelRNN's pixels.

    labels (count,) where it is told the class.
    The first images do not depend on how many there are.
    """
    parts = []
    for begin in range(0, count, AT_ONCE):
        generator, several = _generator(model, seed, begin), min(AT_ONCE, count - begin)
        if isinstance(model, Draw):
            told = None if labels is None else labels[begin : begin + several]
            parts.append(steps(model, several, seed, told, begin).canvases[-1])
        else:
            parts.append(brightness(model.sample(several, generator).float(), model.levels))
    return torch.cat(parts)


@torch.inference_mode()
def steps(model: Draw, count: int, seed: int, labels: Tensor | None = None, begin: int = 0) -> Drawn:
    """The canvases of new images on the way; labels (count,) where it is told the class."""
    labels = None if labels is None else labels.to(model.canvas.device)
    return model.draw(count, _generator(model, seed, begin), labels)


@torch.inference_mode()
def complete(model: Any, images: Tensor, seed: int) -> Tensor:
    """The lower half of images (N, C, height, width), levels, made anew by a PixelRNN from the upper; (N, C, height, width),
    0..1.
    """
    known = torch.zeros_like(images, dtype=torch.bool)
    known[:, :, : images.shape[2] // 2] = True
    found = model.sample(len(images), _generator(model, seed, 0), given=images, known=known)
    return brightness(found.float(), model.levels)


def _generator(model: Any, seed: int, begin: int) -> torch.Generator:
    device = next(model.parameters()).device
    return torch.Generator(device).manual_seed((seed + begin * 0x9E3779B97F4A7C15) % 2**63)
