"""Which tokens of its source each token of a translation attended to, as one picture."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from unrolled import files

_LARGEST = 80
"""Tokens on a side, at most: more cannot be read."""


def draw(path: str | os.PathLike[str], source: Sequence[str], target: Sequence[str], weights: Tensor | None) -> Path:
    """Write a PNG with a row for each token of the translation and a column for each of the source; return its path.

    The darker a square, the higher the weight (Bahdanau, Cho and Bengio 2015, figure 3). A model without attention gets the
    two sentences alone. Of long sentences the beginning is shown. A character that matplotlib's fonts lack is a box.

    Args:
        path: where to; missing folders above it are made.
        source: S tokens.
        target: T tokens.
        weights: (T, S), from 0 to 1.

    Raises:
        ValueError: weights of another shape.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(folder + "/cat.png", ["la", "chatte"], ["the", "cat"], torch.eye(2)).name
    'cat.png'
    """
    path = Path(path)
    if weights is not None and weights.shape != (len(target), len(source)):
        raise ValueError(
            f"alignment.draw expected weights of {len(target)} x {len(source)} tokens (target, source), "
            f"got {tuple(weights.shape)}."
        )
    columns, rows = [[_shown(token) for token in several[:_LARGEST]] for several in (source, target)]
    if weights is None:
        figure = Figure(figsize=(1 + 0.09 * max(len(" ".join(side)) for side in (columns, rows)), 0.8))
        figure.text(0.02, 0.65, " ".join(columns), fontsize=11)
        figure.text(0.02, 0.2, " ".join(rows), fontsize=11)
    else:
        figure = Figure(figsize=(0.26 * max(1, len(columns)), 0.26 * max(1, len(rows))))
        axes = figure.add_axes((0, 0, 1, 1))  # of squares; the tokens stand outside, and the picture is as large as they need
        shown = weights[: len(rows), : len(columns)].detach().float().cpu().numpy()
        axes.imshow(shown, cmap="Greys", vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(len(columns)), columns, fontsize=9)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        axes.xaxis.tick_top()
        for label, token in zip(axes.get_xticklabels(), columns, strict=True):
            label.set_rotation(90 if len(token) > 2 else 0)
        axes.set_xticks([n + 0.5 for n in range(len(columns))], minor=True)
        axes.set_yticks([n + 0.5 for n in range(len(rows))], minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.5)
        axes.tick_params(which="both", length=0)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("source", fontsize=9, color="#777777")
        axes.set_ylabel("translation", fontsize=9, color="#777777")
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script without a font here, drawn as a box
        figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, picture.getvalue())
    return path


def _shown(token: str) -> str:
    """With spaces that can be seen, and without what matplotlib would take for mathematics."""
    return (token.strip() or "␣")[:20].replace("$", r"\$")
