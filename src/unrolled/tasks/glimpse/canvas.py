"""A larger canvas: images at places by chance on it, among pieces of others."""

from __future__ import annotations

import numpy as np

from unrolled.tasks.glimpse.config import Config


def placed(
    images: np.ndarray, pieces_of: np.ndarray, config: Config, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, C, height, width), uint8, each at a place by chance on a black canvas, and among pieces of other images.

    Each piece is cut by chance out of one of `pieces_of`, and lies by chance on the canvas, over the image too; where two lie
    upon each other the brighter is seen (Mnih et al. 2014, section 4.1: cluttered translated MNIST).

    Args:
        images: what is placed.
        pieces_of: what pieces are cut from.
        config: `canvas`, `clutter` and `clutter_size`.
        rng: what chance is.
        spread: how far from the canvas's middle places are, as a share of the way to its edges.

    Returns:
        The canvases (N, C, canvas, canvas), and the rows and columns (N, 2) of the images' upper left corners.
    """
    count, channels, height, width = images.shape
    canvases = np.zeros((count, channels, config.canvas, config.canvas), np.uint8)
    corners = rng.integers(0, [config.canvas - height + 1, config.canvas - width + 1], size=(count, 2))
    middle = (config.canvas - np.array([height, width])) / 2
    corners = np.rint(middle + spread * (corners - middle)).astype(np.int64)
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
