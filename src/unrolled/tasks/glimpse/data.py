"""The images of a run: read, kept as rows on disk, in batches; and placed on a larger canvas among pieces of others."""

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
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.sequences import NOTHING, beside, symbols_of, targets_of

FACTS, TRAINING, VALIDATION = "images.json", "train", "validation"
LARGEST = 256
"""Pixels on a side: the means of all squares are held of every image in a batch."""
AT_ONCE = 256
"""Images that are measured together."""
_PLACED_BY = 0
"""The seed of places on the canvas, the same in every run, so that all are measured on the same images."""


class Facts(BaseModel):
    """What is known of a run's images, beside their rows."""

    model_config = ConfigDict(strict=True)

    channels: int
    height: int
    width: int
    classes: list[str]
    """Their names; where labels are sequences, the symbols."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


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
    else:
        order = np.random.default_rng(config.seed).permutation(len(images))
        count = int(len(images) * config.validation_fraction)
        chosen, rest = np.sort(order[:count]), np.sort(order[count:])
        held, held_labels, images, labels = images[chosen], labels[chosen], images[rest], labels[rest]
    for name, several, own in ((TRAINING, images, labels), (VALIDATION, held, held_labels)):
        (folder / name).mkdir()
        with RowWriter(folder / name, "images", "uint8", several.shape[1:]) as rows:
            rows.add(several)
        with RowWriter(folder / name, "labels", "int64", own.shape[1:]) as rows:
            rows.add(own)
    files.write_atomically(folder / FACTS, facts.model_dump_json().encode())


class Part:
    """The images of one part of a run folder, mapped.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, folder: Path, facts: Facts, objects: int = 0) -> None:
        self.images = open_rows(folder, "images")
        """(N, C, height, width), uint8."""
        self.labels = open_rows(folder, "labels")
        """(N,); of sequences (N, objects + 1), as `sequences.targets_of` has them."""
        shape = (len(self.images), *([objects + 1] if objects else []))
        if self.images.shape[1:] != facts.shape or self.labels.shape != shape:
            raise RunError(f"{folder}: images of {self.images.shape}, labels of {self.labels.shape}. Train again.")
        least, most = (NOTHING, len(facts.classes)) if objects else (0, len(facts.classes) - 1)
        if len(self.labels) and not least <= self.labels.min() <= self.labels.max() <= most:
            raise RunError(f"{folder}: labels that are none of its {len(facts.classes)} classes. Train again.")

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
        """`images` (B, C, height, width), 0..1, on the canvas if there is one, and `labels` (B,) or (B, objects + 1)."""
        epoch, index = divmod(step, self.per_epoch)
        chosen = self._order(epoch)[index * self.size : (index + 1) * self.size]
        rng = np.random.default_rng([self.config.seed, epoch, index])
        if self.config.canvas and self.config.objects:  # and others, to stand beside those
            chosen = np.append(chosen, rng.integers(len(self.part), size=self.size * (self.config.objects - 1)))
        images, labels = np.asarray(self.part.images[chosen]), np.asarray(self.part.labels[chosen])
        if self.config.distort:
            images = distorted(images, self.config.distort, rng)
        if self.config.canvas:
            pieces_of = np.asarray(self.part.images[rng.integers(len(self.part), size=self.size)])
            if self.config.objects:
                images, labels, _ = beside(images, labels, self.size, self.config, rng)
                strew(images, pieces_of, self.config, rng)
            else:
                images, _ = placed(images, pieces_of, self.config, rng)
        return {"images": to_floats(images), "labels": torch.from_numpy(labels)}

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, epoch]).permutation(len(self.part))


def placed(
    images: np.ndarray, pieces_of: np.ndarray, config: Config, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, height, width), uint8, each at a place by chance on a black canvas, and among pieces of other images.

    Each piece is cut by chance out of one of `pieces_of`, and lies by chance on the canvas, over the image too; where two lie
    upon each other the brighter is seen (Mnih et al. 2014, section 4.1: cluttered translated MNIST).

    Returns:
        The canvases (N, C, canvas, canvas), and the rows and columns (N, 2) of the images' upper left corners.
    """
    count, channels, height, width = images.shape
    canvases = np.zeros((count, channels, config.canvas, config.canvas), np.uint8)
    corners = rng.integers(0, [config.canvas - height + 1, config.canvas - width + 1], size=(count, 2))
    _lay(canvases, images, corners)
    strew(canvases, pieces_of, config, rng)
    return canvases, corners


def strew(canvases: np.ndarray, pieces_of: np.ndarray, config: Config, rng: np.random.Generator) -> None:
    """The pieces, in place."""
    count, (height, width), size = len(canvases), pieces_of.shape[2:], config.clutter_size
    for _ in range(config.clutter):
        sources = rng.integers(len(pieces_of), size=count)
        cuts = rng.integers(0, [height - size + 1, width - size + 1], size=(count, 2))
        pieces = _squares(pieces_of, sources, cuts, (size, size))
        _lay(canvases, pieces, rng.integers(0, config.canvas - size + 1, size=(count, 2)))


def _indices(numbers: np.ndarray, channels: int, corners: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Of squares (N, C, *size) in an array of images: which images, all channels, rows and columns."""
    rows = corners[:, 0, None] + np.arange(size[0])
    columns = corners[:, 1, None] + np.arange(size[1])
    return numbers[:, None, None, None], np.arange(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None]


def _squares(images: np.ndarray, numbers: np.ndarray, corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return images[_indices(numbers, images.shape[1], corners, size)]


def _lay(canvases: np.ndarray, pieces: np.ndarray, corners: np.ndarray) -> None:
    """One piece on each canvas, in place."""
    where = _indices(np.arange(len(pieces)), pieces.shape[1], corners, pieces.shape[2:])  # type: ignore[arg-type]
    canvases[where] = np.maximum(canvases[where], pieces)


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
    found = labelled_images.read(paths, colour=config.colour, size=config.size, largest=LARGEST, classes=classes, say=say)
    if config.objects and found.classes:
        symbols = facts.classes if facts else symbols_of(found.classes, config)
        targets = targets_of(found.classes, symbols, config, ", ".join(paths))
        found = found._replace(labels=targets[found.labels], classes=symbols)
    if config.invert:
        found = found._replace(images=255 - found.images)
    if facts:
        require_size(", ".join(paths), found.images, facts)
    return found


def require_size(named: str, images: np.ndarray, facts: Facts) -> None:
    """Refuse images (N, C, height, width) that are not as large as those of the run.

    Raises:
        DataError: naming both sizes.
    """
    if images.shape[1:] != facts.shape:
        expected, got = (" x ".join(map(str, shape[1:])) for shape in (facts.shape, images.shape[1:]))
        raise DataError(f"{named}: expected images of {expected} pixels, as those it was trained on, got {got}.")
