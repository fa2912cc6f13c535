"""Looking at images: where it looks, and what it says after each glimpse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.tasks.glimpse.model import Glimpses


class Seen(NamedTuple):
    """What was said of N images, on the CPU."""

    probabilities: Tensor
    """(T, N, K), of each class after each glimpse; of several paths their mean."""
    places: Tensor
    """(T, N, 2), y and x of each glimpse, from -1 to 1; of several paths those of the first."""


class Glimpse(NamedTuple):
    """One of an image, and what was said after it."""

    row: float
    """Of its centre, in pixels from the upper edge."""
    column: float
    """In pixels from the left edge."""
    label: str
    """The most probable class."""
    probability: float


class Look(NamedTuple):
    """One image, looked at."""

    name: str
    image: np.ndarray
    """(C, height, width), 0..1, on the canvas if there is one."""
    glimpses: list[Glimpse]

    @property
    def label(self) -> str:
        """What was said in the end."""
        return self.glimpses[-1].label

    @property
    def probability(self) -> float:
        """Of that label."""
        return self.glimpses[-1].probability


@torch.inference_mode()
def look(model: Glimpses, images: Tensor, glimpses: int, samples: int, seed: int) -> Seen:
    """Look at images (N, C, height, width), 0..1, `glimpses` times.

    With `samples` paths each, drawn by the seed, their probabilities are averaged; with 0 of them the policy's means are the
    path.
    """
    model.eval()
    images = images.to(next(model.parameters()).device)
    generator = torch.Generator(images.device).manual_seed(seed % 2**63)
    paths = [
        model(images, glimpses=glimpses, generator=generator, drawn=samples > 0)
        for _ in range(1 if model.attention == "soft" else max(1, samples))  # soft draws nothing
    ]
    probabilities = sum(path.scores.softmax(2) for path in paths) / len(paths)
    return Seen(torch.as_tensor(probabilities).cpu(), paths[0].places.float().clamp(-1, 1).cpu())


def looks(seen: Seen, images: Tensor, classes: Sequence[str], names: Sequence[str]) -> list[Look]:
    """The same by image; images (N, C, height, width)."""
    pixels = (seen.places + 1) / 2 * torch.tensor(images.shape[2:])
    best, numbers = seen.probabilities.max(2)  # (T, N)
    found = []
    for n, name in enumerate(names):
        each = zip(pixels[:, n].tolist(), numbers[:, n].tolist(), best[:, n].tolist(), strict=True)
        glimpses = [Glimpse(row, column, classes[int(number)], probability) for (row, column), number, probability in each]
        found.append(Look(name, images[n].numpy(), glimpses))
    return found
