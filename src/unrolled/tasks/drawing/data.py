"""The images of a run: read, brought to the levels of a pixel, kept as rows on disk, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from unrolled import files
from unrolled.data import labelled_images
from unrolled.data.distortion import distorted
from unrolled.data.rows import RowWriter, open_rows
from unrolled.errors import DataError, RunError
from unrolled.tasks.drawing.config import Config

FACTS, TRAINING, VALIDATION = "images.json", "train", "validation"
LARGEST = 256
"""Pixels on a side: what is held of a step grows with its square."""
_BINARISED_BY = 0
"""The seed of black and white, the same in every run, so that all are measured on the same images."""


class Facts(BaseModel):
    """What is known of a run's images, beside their rows."""

    model_config = ConfigDict(strict=True)

    channels: int
    height: int
    width: int
    classes: list[str]
    """Their names; empty where the images have none."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


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
        held = quantised(held, config.levels)
    else:
        order = np.random.default_rng(config.seed).permutation(len(images))
        count = int(len(images) * config.validation_fraction)
        chosen, rest = np.sort(order[:count]), np.sort(order[count:])
        held, held_labels = measured[chosen], labels[chosen]
        shown, labels = shown[rest], labels[rest]
    for name, several, own in ((TRAINING, shown, labels), (VALIDATION, held, held_labels)):
        (folder / name).mkdir()
        with RowWriter(folder / name, "images", "uint8", images.shape[1:]) as rows:
            rows.add(several)
        with RowWriter(folder / name, "labels", "int64") as rows:
            rows.add(own)
    files.write_atomically(folder / FACTS, facts.model_dump_json().encode())


class Part:
    """The images of one part of a run folder, mapped.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.images = open_rows(folder, "images")
        """(N, C, height, width), uint8."""
        self.labels = open_rows(folder, "labels")
        """(N,)"""
        if self.images.shape[1:] != facts.shape or len(self.labels) != len(self.images):
            raise RunError(f"{folder}: images of {self.images.shape}, labels of {self.labels.shape}. Train again.")

    def __len__(self) -> int:
        return len(self.images)


class Batches:
    """The training images, `config.batch_size` at a time, in another order in every epoch; of the last too few to fill a batch,
    which are others in every epoch, are left out.
    """

    def __init__(self, config: Config, part: Part) -> None:
        self.config, self.part = config, part
        self.size = min(config.batch_size, len(part))
        self.per_epoch = len(part) // self.size
        self._order = lru_cache(2)(self._draw_order)  # threads make batches of an epoch and of the next one side by side

    def batch(self, step: int) -> dict[str, Tensor]:
        """`images` (B, C, height, width), levels as floats, and `labels` (B,)."""
        epoch, index = divmod(step, self.per_epoch)
        chosen = self._order(epoch)[index * self.size : (index + 1) * self.size]
        rng = np.random.default_rng([self.config.seed, epoch, index])
        images = np.asarray(self.part.images[chosen])
        if self.config.distort:
            images = distorted(images, self.config.distort, rng)
        if self.config.resample:
            images = binarised(images, rng)
        return {"images": torch.from_numpy(images).float(), "labels": torch.from_numpy(self.part.labels[chosen])}

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, epoch]).permutation(len(self.part))


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
    found = labelled_images.read(paths, colour=config.colour, size=config.size, largest=LARGEST, classes=told, say=say)
    if config.invert:
        found = found._replace(images=255 - found.images)
    if facts and found.images.shape[1:] != facts.shape:
        expected, got = (" x ".join(map(str, shape[1:])) for shape in (facts.shape, found.images.shape[1:]))
        raise DataError(f"{', '.join(paths)}: expected images of {expected} pixels, as those it was trained on, got {got}.")
    if told and not found.classes:
        raise DataError(f"{', '.join(paths)}: expected images with classes, which the model is told, got images without.")
    return found
