"""Looking at images: where it looks, and what it says after each glimpse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.tasks.glimpse.model import Glimpses
from unrolled.tasks.glimpse.reader import Reader
from unrolled.tasks.glimpse.sequences import as_text, until

END = "(end)"
"""What is said where nothing is left to read."""


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
    """Where symbols are read, until END."""
    symbols: list[Glimpse] | None = None
    """Where symbols are read, the last glimpse of each, and of END."""

    @property
    def label(self) -> str:
        """What was said in the end; the symbols that were read, as one text."""
        if self.symbols is None:
            return self.glimpses[-1].label
        return as_text([each.label for each in self.symbols if each.label != END])

    @property
    def probability(self) -> float:
        """Of that label; of all symbols and END, together."""
        return math.prod(each.probability for each in self.symbols or self.glimpses[-1:])


@torch.inference_mode()
def look(model: Glimpses | Reader, images: Tensor, glimpses: int, samples: int, seed: int) -> Seen:
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


def looks(seen: Seen, images: Tensor, classes: Sequence[str], names: Sequence[str], objects: int = 0) -> list[Look]:
    """The same by image; images (N, C, height, width). With `objects` classes are symbols, and what follows END is left out."""
    each_symbol, said_of = len(seen.places) // (objects + 1), [*classes, END]
    pixels = (seen.places + 1) / 2 * torch.tensor(images.shape[2:])
    best, numbers = seen.probabilities.max(2)  # (T, N)
    found = []
    for n, name in enumerate(names):
        each = zip(pixels[:, n].tolist(), numbers[:, n].tolist(), best[:, n].tolist(), strict=True)
        glimpses = [Glimpse(row, column, said_of[int(number)], probability) for (row, column), number, probability in each]
        symbols = None
        if objects:
            count = len(until(numbers[each_symbol - 1 :: each_symbol, n].tolist(), len(classes)))
            glimpses = glimpses[: each_symbol * (count + 1)]
            symbols = glimpses[each_symbol - 1 :: each_symbol]
        found.append(Look(name, images[n].numpy(), glimpses, symbols))
    return found
