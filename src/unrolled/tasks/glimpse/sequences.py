"""Labels that are sequences of symbols: from classes to symbols and back, and several images on one canvas as their example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unrolled.errors import DataError
from unrolled.tasks.glimpse.config import Config

NOTHING = -1
"""In a target, behind END."""


def symbols_of(classes: Sequence[str], config: Config) -> list[str]:
    """The symbols that classes are made of, sorted: on a canvas each class is one; else words, or characters where none has a
    space.

    >>> symbols_of(["12", "205"], Config(objects=3))
    ['0', '1', '2', '5']
    >>> symbols_of(["red circle", "circle"], Config(objects=2))
    ['circle', 'red']
    """
    if config.canvas:
        return list(classes)
    return sorted({symbol for text in classes for symbol in _split(text, _has_words(classes))})


def targets_of(classes: Sequence[str], symbols: Sequence[str], config: Config, named: str) -> np.ndarray:
    """Of each class its symbols by number, then END, whose number follows theirs, then NOTHING: (classes, objects + 1).

    Raises:
        DataError: a class of more symbols than `objects`, or with one that is not among `symbols`.

    >>> targets_of(["12", "2"], ["1", "2"], Config(objects=3), "numbers.npz").tolist()
    [[0, 1, 2, -1], [1, 2, -1, -1]]
    """
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    words = any(len(symbol) > 1 for symbol in symbols) or _has_words(classes)
    found = np.full((len(classes), config.objects + 1), NOTHING, np.int64)
    for row, text in zip(found, classes, strict=True):
        own = [text] if config.canvas else _split(text, words)
        if len(own) > config.objects:
            raise DataError(
                f"{named}: expected labels of at most {config.objects} symbols (objects), got {len(own)} in {text!r}. "
                "Train with more (--objects)."
            )
        if strange := [symbol for symbol in own if symbol not in numbers]:
            raise DataError(f"{named}: expected labels of the symbols {', '.join(symbols)}, got {strange[0]!r} in {text!r}.")
        row[: len(own) + 1] = [*(numbers[symbol] for symbol in own), len(symbols)]
    return found


def until(numbers: Sequence[int], end: int) -> Sequence[int]:
    """What was said before END, of which there need not be one.

    >>> until([1, 0, 2, 0], end=2)
    [1, 0]
    """
    return numbers[: list(numbers).index(end)] if end in numbers else numbers


def as_text(said: Sequence[str]) -> str:
    """Symbols as one text: as they are where each is a character, else with spaces between."""
    return ("" if all(len(symbol) == 1 for symbol in said) else " ").join(said)


def beside(
    images: np.ndarray, targets: np.ndarray, count: int, config: Config, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One to `objects` images side by side on each canvas, none upon another, and what is to be read from left to right.

    Args:
        images: (N, C, height, width), uint8, of which they are drawn.
        targets: (N, objects + 1), of each image alone.
        count: B, how many canvases; the first B images are on one of them each, for certain.
        config: `canvas` and `objects`.
        rng: what chance is.
        spread: how far from the canvas's middle places are, as a share of the way to its edges; at 0 without a gap.

    Returns:
        canvases (B, C, canvas, canvas), targets (B, objects + 1), and the rows and columns (B, objects, 2) of the images' upper
        left corners, NOTHING where there is none.
    """
    (channels, height, width), most = images.shape[1:], config.objects
    several = rng.integers(1, most + 1, size=count)
    chosen = rng.integers(len(images), size=(count, most))
    chosen[np.arange(count), rng.integers(several)] = np.arange(count)
    there = np.arange(most) < several[:, None]  # (B, objects)
    free = config.canvas - several * width
    shares = np.sort(np.where(there, 0.5 + spread * (rng.random((count, most)) - 0.5), 2.0), axis=1)  # those there come first
    columns = np.floor(shares * (free[:, None] + 1)).astype(np.int64) + width * np.arange(most)
    middle = (config.canvas - height) / 2
    rows = np.rint(middle + spread * (rng.integers(config.canvas - height + 1, size=(count, most)) - middle)).astype(np.int64)
    corners = np.stack([rows, columns], axis=2)
    corners[~there] = NOTHING
    canvases = np.zeros((count, channels, config.canvas, config.canvas), np.uint8)
    for n, k in zip(*np.nonzero(there), strict=True):
        row, column = corners[n, k]
        canvases[n, :, row : row + height, column : column + width] = images[chosen[n, k]]
    found = np.full((count, most + 1), NOTHING, np.int64)
    found[:, :most][there] = targets[chosen, 0][there]
    found[np.arange(count), several] = targets[:count, 1]  # END
    return canvases, found, corners


def _split(text: str, words: bool) -> list[str]:
    return text.split() if words else list(text)


def _has_words(classes: Sequence[str]) -> bool:
    return any(" " in text for text in classes)
