"""The images of a run: read, brought to the levels of a pixel, kept on disk, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unrolled.data import labelled_images
from unrolled.data.batches import ShuffledBatches
from unrolled.data.distortion import distorted
from unrolled.data.image_parts import Facts, Labelled, Part, split, write
from unrolled.errors import DataError
from unrolled.tasks.drawing.config import Config

LARGEST = 256
"""Pixels on a side: what is held of a step grows with its square."""
_BINARISED_BY = 0
"""The seed of black and white, the same in every run, so that all are measured on the same images."""


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Read the images, and leave them in the run folder as training takes them.

    Raises:
        DataError: images that cannot be read, are of different sizes, or are too few.
    """
    images, labels, classes = read(config.data, config, say)
    if config.conditional and len(classes) < 2:
        got = f"one, {classes[0]}" if classes else "images without classes"
        raise DataError(f"{', '.join(config.data)}: conditional (--conditional) expected several classes, got {got}.")
    channels, height, width = images.shape[1:]
    facts = Facts(channels=channels, height=height, width=width, classes=classes if config.conditional else [])
    measured = quantised(images, config.levels)
    shown = images if config.resample else measured
    if config.validation:
        held, held_labels, _ = read(config.validation, config, say, facts)
        training, validation = Labelled(shown, labels), Labelled(quantised(held, config.levels), held_labels)
    else:
        rest, chosen = split(len(images), config.validation_fraction, config.seed)
        training, validation = Labelled(shown[rest], labels[rest]), Labelled(measured[chosen], labels[chosen])
    write(folder, facts, training, validation)


class Batches:
    """The training images, shuffled, and changed as the settings say."""

    def __init__(self, config: Config, part: Part | Labelled) -> None:
        self.config, self.part = config, part
        self.shuffled = ShuffledBatches(len(part.images), config.batch_size, config.seed)

    @property
    def per_epoch(self) -> int:
        return self.shuffled.per_epoch

    def batch(self, step: int) -> dict[str, Tensor]:
        """`images` (B, C, height, width), levels as floats, and `labels` (B,)."""
        chosen, rng = self.shuffled[step], self.shuffled.rng(step)
        images = np.asarray(self.part.images[chosen])
        if self.config.distort:
            images = distorted(images, self.config.distort, rng)
        if self.config.resample:
            images = binarised(images, rng)
        return {"images": torch.from_numpy(images).float(), "labels": torch.from_numpy(self.part.labels[chosen])}


def each_class(facts: Facts, count: int) -> Tensor | None:
    """Numbers of classes in turn, (count,); None where the model is told none."""
    return torch.arange(count) % len(facts.classes) if facts.classes else None


def quantised(images: np.ndarray, levels: int) -> np.ndarray:
    """Brightness 0..255 -> levels 0..L-1; of two levels `binarised` by the seed that is the same in every run."""
    if levels == 2:
        return binarised(images, np.random.default_rng(_BINARISED_BY))
    return (images.astype(np.uint16) * levels // 256).astype(np.uint8)


def binarised(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness 0..255 -> 0 or 1, drawn with it as the probability (Salakhutdinov and Murray 2008)."""
    return (rng.random(images.shape, dtype=np.float32) * 255 < images).astype(np.uint8)


def read(
    paths: Sequence[str], config: Config, say: Callable[[str], None], facts: Facts | None = None
) -> labelled_images.LabelledImages:
    """Images and classes, as the settings ask for them; the size and, where it is told these, the classes of `facts`.

    Raises:
        DataError: they cannot be read, are of different sizes, or of another size than the run's.
    """
    told = facts.classes if facts and config.conditional else None
    trained_on = [(facts.height, facts.width)] if facts else []
    found = labelled_images.read(
        paths, colour=config.colour, size=config.size, largest=LARGEST, trained_on=trained_on, classes=told, say=say
    )
    if config.invert:
        found = found._replace(images=255 - found.images)
    if told and not found.classes:
        raise DataError(f"{', '.join(paths)}: expected images with classes, which the model is told, got images without.")
    return found
