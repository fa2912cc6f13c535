"""The pictures of a run: squares of what the user names, kept on disk, and generated ones; cropped anew at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unrolled.data.image_parts import TRAINING, VALIDATION, split
from unrolled.data.images import find_images, read_image
from unrolled.data.rows import RowWriter, open_rows
from unrolled.tasks.painting import generated
from unrolled.tasks.painting.config import Config
from unrolled.tasks.painting.windows import CORE

SIDE = 192
"""Pixels of the squares that are kept: the picture's shorter side."""
_SQUARES = 3
"""Of a long picture at most so many are kept."""
_GENERATED_FOR_VALIDATION = 16


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Read the pictures, and leave squares of them in the run folder.

    Raises:
        DataError: pictures that cannot be read.
    """
    found = [*squares(config.data)] if config.data else []
    learned, held = split(len(found), config.validation_fraction, config.seed)
    for name, chosen in ((TRAINING, learned), (VALIDATION, held)):
        (folder / name).mkdir()
        with RowWriter(folder / name, "squares", "uint8", (SIDE, SIDE, 3)) as rows:
            for n in chosen:
                rows.add(found[n][None])
    if found:
        say(f"{len(found):,} squares of pictures")


def squares(paths: Sequence[str]) -> Iterator[np.ndarray]:
    """Squares of all pictures in files and folders, (SIDE, SIDE, 3), uint8.

    Raises:
        DataError: no picture, or one that cannot be read.
    """
    for path in find_images(paths):
        yield from _squares(read_image(path))


def _squares(image: Image.Image) -> list[np.ndarray]:
    """Squares side by side along the longer side, each of the shorter side's length: (SIDE, SIDE, 3), uint8."""
    shorter, longer = min(image.size), max(image.size)
    count = min(_SQUARES, math.ceil(longer / shorter))
    starts = np.linspace(0, longer - shorter, count).round().astype(int)
    wide = image.width >= image.height
    boxes = [(n, 0, n + shorter, shorter) if wide else (0, n, shorter, n + shorter) for n in starts.tolist()]
    return [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)) for box in boxes]


class Pictures:
    """The training pictures, a batch for each step, and those that are measured on.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.side = config, CORE * 2 ** (config.levels - 1)
        self.training, self.validation = (open_rows(folder / name, "squares") for name in (TRAINING, VALIDATION))

    def batch(self, step: int) -> dict[str, Tensor]:
        """`pictures` (B, 3, side, side), `grounds` (B, 3), the colour that each begins with, and `keep` (B, levels * looks),
        the share of the strokes of each look that are laid."""
        rng = np.random.default_rng([self.config.seed, step])
        pictures = np.stack([self._picture(rng) for _ in range(self.config.batch_size)])
        means = pictures.mean((1, 2))
        kind = rng.random()
        grounds = np.ones_like(means) if kind < 0.3 else means if kind < 0.7 else rng.random(means.shape)
        keep = np.where(rng.random((len(pictures), self.config.levels * self.config.looks)) < 0.4, 0.5, 1.0)
        return _tensors(pictures, grounds, keep)

    def measured(self) -> dict[str, Tensor]:
        """The same of what was held out and of generated pictures that are always the same, on grounds of their mean."""
        rng = np.random.default_rng(0)
        own = [_cropped(square, self.side) for square in self.validation]
        pictures = np.stack([*own, *(generated.picture(rng, self.side) for _ in range(_GENERATED_FOR_VALIDATION))])
        return _tensors(pictures, pictures.mean((1, 2)), np.ones((len(pictures), self.config.levels * self.config.looks)))

    def _picture(self, rng: np.random.Generator) -> np.ndarray:
        if not len(self.training) or rng.random() < self.config.generated:
            return generated.picture(rng, self.side)
        pixels = _crop(rng, self.training[rng.integers(len(self.training))], self.side)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        if rng.random() < 0.3:
            pixels = np.rot90(pixels, int(rng.integers(4)))
        if rng.random() < 0.5:
            pixels = pixels[..., rng.permutation(3)] ** rng.uniform(0.7, 1.4)
        return pixels


def _crop(rng: np.random.Generator, square: np.ndarray, side: int) -> np.ndarray:
    size = int(SIDE * np.exp(rng.uniform(np.log(0.25), 0)))
    y, x = rng.integers(0, SIDE - size + 1, 2)
    return _cropped(square[y : y + size, x : x + size], side)


def _cropped(pixels: np.ndarray, side: int) -> np.ndarray:
    """(h, h, 3) uint8 -> (side, side, 3) in 0 to 1."""
    filtered = Image.Resampling.BOX if len(pixels) > side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), filtered)) / 255.0


def _tensors(pictures: np.ndarray, grounds: np.ndarray, keep: np.ndarray) -> dict[str, Tensor]:
    return {
        "pictures": torch.from_numpy(np.ascontiguousarray(pictures, np.float32)).permute(0, 3, 1, 2).contiguous(),
        "grounds": torch.from_numpy(np.ascontiguousarray(grounds, np.float32)),
        "keep": torch.from_numpy(keep),
    }
