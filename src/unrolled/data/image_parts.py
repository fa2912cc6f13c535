"""A run's images on disk, one part to learn from and one to measure on: facts as JSON, images and labels as rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from unrolled import files
from unrolled.data.rows import RowWriter, open_rows
from unrolled.errors import RunError

FACTS, TRAINING, VALIDATION = "images.json", "train", "validation"


class Facts(BaseModel):
    """What is known of a run's images, beside their rows."""

    model_config = ConfigDict(strict=True)

    channels: int
    height: int
    width: int
    classes: list[str]
    """Names of the classes, or symbols of the labels that are sequences; empty where the model is told none."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class Labelled(NamedTuple):
    """Images (N, C, height, width), uint8, and their labels, (N,) or (N, symbols)."""

    images: np.ndarray
    labels: np.ndarray


def split(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the images to learn from, and of the `fraction` of them that is held out, each in order."""
    order = np.random.default_rng(seed).permutation(count)
    held = int(count * fraction)
    return np.sort(order[held:]), np.sort(order[:held])


def write(folder: Path, facts: Facts, training: Labelled, validation: Labelled) -> None:
    """Leave both parts in a run folder."""
    for name, part in ((TRAINING, training), (VALIDATION, validation)):
        (folder / name).mkdir()
        for what, rows_of, dtype in (("images", part.images, "uint8"), ("labels", part.labels, "int64")):
            with RowWriter(folder / name, what, dtype, rows_of.shape[1:]) as rows:
                rows.add(rows_of)
    files.write_atomically(folder / FACTS, facts.model_dump_json().encode())


class Part:
    """The images of one part of a run folder, mapped.

    Args:
        folder: of the part.
        facts: of the run.
        symbols: of each label that is a sequence; 0 where a label is one class.
        lowest, highest: that a label may be; by default numbers of the classes, if there are any.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, folder: Path, facts: Facts, symbols: int = 0, lowest: int = 0, highest: int | None = None) -> None:
        self.images = open_rows(folder, "images")
        """(N, C, height, width), uint8."""
        self.labels = open_rows(folder, "labels")
        """(N,) or (N, symbols)."""
        shape = (len(self.images), symbols) if symbols else (len(self.images),)
        if self.images.shape[1:] != facts.shape or self.labels.shape != shape:
            raise RunError(f"{folder}: images of {self.images.shape}, labels of {self.labels.shape}. Train again.")
        highest = len(facts.classes) - 1 if highest is None else highest
        if facts.classes and len(self.labels) and not lowest <= self.labels.min() <= self.labels.max() <= highest:
            raise RunError(f"{folder}: labels that are none of its {len(facts.classes)} classes. Train again.")

    def __len__(self) -> int:
        return len(self.images)
