"""Which tokens of its source each token of a translation attended to, as one picture."""

from __future__ import annotations

import io
import os
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
    two sentences alone. Of long sentences the beginning is shown.

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
    figure = Figure(figsize=(1.6 + 0.26 * len(columns), 1.4 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    if weights is None:
        axes.axis("off")
        axes.text(0, 0.6, " ".join(columns), fontsize=11)
        axes.text(0, 0.3, " ".join(rows), fontsize=11)
    else:
        shown = weights[: len(rows), : len(columns)].detach().float().cpu().numpy()
        axes.imshow(shown, cmap="Greys", vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=9)
        axes.set_yticks(range(len(rows)), rows, fontsize=9)
        axes.xaxis.tick_top()
        axes.set_xticks([n + 0.5 for n in range(len(columns))], minor=True)
        axes.set_yticks([n + 0.5 for n in range(len(rows))], minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.5)
        axes.tick_params(which="both", length=0)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, picture.getvalue())
    return path


def _shown(token: str) -> str:
    """With spaces that can be seen, and without what matplotlib would take for mathematics."""
    return (token.strip() or "␣")[:20].replace("$", r"\$")
