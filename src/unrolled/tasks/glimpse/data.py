"""The images of a run: read, kept on disk, in batches."""

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
from unrolled.tasks.glimpse.canvas import placed, strew
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.sequences import NOTHING, beside, symbols_of, targets_of

LARGEST = 256
"""Pixels on a side: the means of all squares are held of every image in a batch."""
AT_ONCE = 256
"""Images that are measured together."""
_PLACED_BY = 0
"""The seed of places on the canvas, the same in every run, so that all are measured on the same images."""


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Read the images, and leave them in the run folder.

    Raises:
        DataError: images that cannot be read, are of different sizes, have fewer than two classes, or do not fit the canvas or
            the glimpse.
    """
    images, labels, classes = read(config.data, config, say)
    named = ", ".join(config.data)
    if len(classes) < 2:
        got = f"one, {classes[0]}" if classes else "images without classes"
        raise DataError(f"{named}: expected images of two classes or more, got {got}.")
    channels, height, width = images.shape[1:]
    if config.canvas and max(height, width * max(1, config.objects)) > config.canvas:
        beside_another = f", {config.objects} of them side by side," * (config.objects > 1)
        raise DataError(
            f"{named}: expected images that fit{beside_another} on the canvas of {config.canvas} x {config.canvas} pixels, got "
            f"{height} x {width}. Make canvas (--canvas) larger, or them smaller by size (--size)."
        )
    if config.clutter and config.clutter_size > min(height, width):
        raise DataError(
            f"{named}: expected images that pieces of {config.clutter_size} x {config.clutter_size} pixels can be cut from, "
            f"got {height} x {width}. Make clutter_size (--clutter-size) smaller."
        )
    seen = (config.canvas, config.canvas) if config.canvas else (height, width)
    if config.glimpse_size > min(seen):
        raise DataError(
            f"{named}: expected images that a glimpse of {config.glimpse_size} x {config.glimpse_size} pixels fits into, got "
            f"{seen[0]} x {seen[1]}. Make glimpse_size (--glimpse-size) smaller."
        )
    facts = Facts(channels=channels, height=height, width=width, classes=classes)
    if config.validation:
        held, held_labels, _ = read(config.validation, config, say, facts)
        training, validation = Labelled(images, labels), Labelled(held, held_labels)
    else:
        rest, chosen = split(len(images), config.validation_fraction, config.seed)
        training, validation = (Labelled(images[numbers], labels[numbers]) for numbers in (rest, chosen))
    write(folder, facts, training, validation)


def part(folder: Path, facts: Facts, config: Config) -> Part:
    """A part of a run folder, with labels as the settings have them: classes, or sequences of symbols.

    Raises:
        RunError: the files are missing or damaged.
    """
    if not config.objects:
        return Part(folder, facts)
    return Part(folder, facts, config.objects + 1, lowest=NOTHING, highest=len(facts.classes))  # the last is END


class Batches:
    """The training images, shuffled, distorted, and on their canvas."""

    def __init__(self, config: Config, part: Part | Labelled) -> None:
        self.config, self.part = config, part
        self.shuffled = ShuffledBatches(len(part.images), config.batch_size, config.seed)

    def batch(self, step: int) -> dict[str, Tensor]:
        """`images` (B, C, height, width), 0..1, on the canvas if there is one, and `labels` (B,) or (B, objects + 1)."""
        chosen, rng, size = self.shuffled[step], self.shuffled.rng(step), self.shuffled.size
        if self.config.canvas and self.config.objects:  # and others, to stand beside those
            chosen = np.append(chosen, rng.integers(len(self.part.images), size=size * (self.config.objects - 1)))
        images, labels = np.asarray(self.part.images[chosen]), np.asarray(self.part.labels[chosen])
        if self.config.distort:
            images = distorted(images, self.config.distort, rng)
        if self.config.canvas:
            pieces_of = np.asarray(self.part.images[rng.integers(len(self.part.images), size=size)])
            spread = min(1.0, step / self.config.curriculum) if self.config.curriculum else 1.0
            if self.config.objects:
                images, labels, _ = beside(images, labels, size, self.config, rng, spread)
                strew(images, pieces_of, self.config, rng)
            else:
                images, _ = placed(images, pieces_of, self.config, rng, spread)
        return {"images": to_floats(images), "labels": torch.from_numpy(labels)}


def to_measure_on(images: np.ndarray, config: Config, start: int = 0) -> tuple[Tensor, np.ndarray]:
    """The images from `start` on, at most `AT_ONCE`, (N, C, height, width), 0..1, and their upper left corners, (N, 2).

    On a canvas they are where they are every time, among pieces of those that are measured.
    """
    own = np.asarray(images[start : start + AT_ONCE])
    if not config.canvas:
        return to_floats(own), np.zeros((len(own), 2), np.int64)
    canvases, corners = placed(own, own, config, np.random.default_rng([_PLACED_BY, start]))
    return to_floats(canvases), corners


def sequences_to_measure_on(
    images: np.ndarray, targets: np.ndarray, config: Config, start: int = 0
) -> tuple[Tensor, np.ndarray]:
    """The same of sequences: images, and what is to be read, (N, objects + 1). On a canvas others of them stand beside each."""
    own, wanted = (np.asarray(each[start : start + AT_ONCE]) for each in (images, targets))
    if not config.canvas:
        return to_floats(own), wanted
    rng = np.random.default_rng([_PLACED_BY, start])
    canvases, wanted, _ = beside(own, wanted, len(own), config, rng)
    strew(canvases, own, config, rng)
    return to_floats(canvases), wanted


def to_floats(images: np.ndarray) -> Tensor:
    """Brightness 0..255 -> 0..1."""
    return torch.from_numpy(images / np.float32(255))


def read(
    paths: Sequence[str], config: Config, say: Callable[[str], None], facts: Facts | None = None
) -> labelled_images.LabelledImages:
    """Images and classes, as the settings ask for them, and of the size and the classes of `facts`.

    Raises:
        DataError: they cannot be read, are of different sizes, or of another size than the run's, or have a class that is none
            of the run's.
    """
    classes = facts.classes if facts and not config.objects else None
    found = _pixels(paths, config, [(facts.height, facts.width)] if facts else [], classes, say)
    if config.objects and found.classes:
        symbols = facts.classes if facts else symbols_of(found.classes, config)
        targets = targets_of(found.classes, symbols, config, ", ".join(paths))
        found = found._replace(labels=targets[found.labels], classes=symbols)
    return found


def read_to_look_at(path: str, config: Config, facts: Facts) -> np.ndarray:
    """Images (N, C, height, width), uint8, with classes or without: of the size of `facts`, or of the canvas, if there is one.

    Raises:
        DataError: they cannot be read, or are of another size.
    """
    canvas = [(config.canvas, config.canvas)] if config.canvas else []
    return _pixels([path], config, [(facts.height, facts.width), *canvas]).images


def _pixels(
    paths: Sequence[str],
    config: Config,
    trained_on: Sequence[tuple[int, int]],
    classes: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> labelled_images.LabelledImages:
    found = labelled_images.read(
        paths, colour=config.colour, size=config.size, largest=LARGEST, trained_on=trained_on, classes=classes, say=say
    )
    return found._replace(images=255 - found.images) if config.invert else found
