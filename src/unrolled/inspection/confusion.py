"""Which labels were taken for which, as numbers and as one picture."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from unrolled import files

_LARGEST = 40
"""Labels on a side, at most: more cannot be read."""


def as_csv(labels: Sequence[str], counts: np.ndarray) -> str:
    """The confusion matrix of `label_metrics.confusion` as CSV: a row for each true label, a column for each predicted one.

    >>> print(as_csv(["run", "walk"], np.array([[1, 0], [1, 5]])), end="")
    true,run,walk
    run,1,0
    walk,1,5
    """
    _require_square(labels, counts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *labels])
    writer.writerows([label, *row] for label, row in zip(labels, counts.tolist(), strict=True))
    return text.getvalue()


def draw(path: str | os.PathLike[str], labels: Sequence[str], counts: np.ndarray) -> Path:
    """Write a PNG of a confusion matrix, a row for each true label and a column for each predicted one; return its path.

    A square is as dark as its share of the row, so that rare labels show like frequent ones; the counts stand in it. Of more
    than 40 labels the most frequent are shown, the rest together as one.

    Args:
        path: where to; missing folders above it are made.
        labels: L names.
        counts: (L, L) integers.

    Raises:
        ValueError: counts of another shape.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(folder + "/confusion.png", ["run", "walk"], np.array([[1, 0], [1, 5]])).name
    'confusion.png'
    """
    path = Path(path)
    _require_square(labels, counts)
    names, counts = _most_frequent(labels, np.asarray(counts))
    names = [name.replace("$", r"\$")[:24] or "(empty)" for name in names]  # else matplotlib takes it for mathematics
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 0.44 * len(names)
    figure = Figure(figsize=(max(size, 1.2), max(size, 1.2)))
    axes = figure.add_axes((0, 0, 1, 1))  # of squares; the names stand outside, and the picture is as large as they need
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, _short(int(count)), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, picture.getvalue())
    return path


def _most_frequent(labels: Sequence[str], counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    if len(labels) <= _LARGEST:
        return list(labels), counts
    order = np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")
    kept, rest = np.sort(order[: _LARGEST - 1]), order[_LARGEST - 1 :]
    rows = np.vstack([counts[kept], counts[rest].sum(0)])
    return [*(labels[int(n)] for n in kept), f"{len(rest)} others"], np.column_stack([rows[:, kept], rows[:, rest].sum(1)])


def _short(count: int) -> str:
    """At most four characters: 9999, 12k, 3M."""
    return str(count) if count < 10_000 else f"{count // 1000}k" if count < 1_000_000 else f"{count // 1_000_000}M"


def _require_square(labels: Sequence[str], counts: np.ndarray) -> None:
    if counts.shape != (len(labels), len(labels)) or not len(labels):
        raise ValueError(f"expected counts of {len(labels)} x {len(labels)} labels (true, predicted), got {counts.shape}.")
