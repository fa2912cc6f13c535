"""The labels of a sequence over time, the true ones above the predicted, above the input that they name."""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unrolled import files
from unrolled.inspection.label_styles import styles
from unrolled.label_metrics import segments

_CURVES = 16
"""More numbers a step than this are drawn as an image, such as that of sound."""
_ACROSS = 2000
"""Steps drawn, at most: about the pixels there are. Of more, each place shows the range, or the most frequent label."""
_PICTURES = 12
_HATCHES = ("", "///", "...", "xxx")
_INCHES = 11.0

Labels = Sequence[str] | Sequence[Collection[str]]


def draw(
    path: str | os.PathLike[str],
    predicted: Labels,
    truth: Labels | None = None,
    *,
    inputs: np.ndarray | None = None,
    times: np.ndarray | None = None,
    names: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Path:
    """Write a PNG of the labels as coloured strips above the curves of the input; return its path.

    Up to 16 numbers a step are curves, each scaled to its own range; more are an image, the first at the bottom; pictures are
    shown themselves. Where steps have several labels, each label is a row: black where it is right, else by its error.

    Args:
        path: where to; missing folders above it are made.
        predicted: T labels, or T sets of them.
        truth: what they should be.
        inputs: (T, F) numbers or (T, height, width, channels) pictures: bytes of three channels, or numbers of any, which are
            shown in grey from the smallest to the largest.
        times: (T,) seconds at which the steps begin; their numbers when left out.
        names: the labels in the order by which they get their colours and rows.
        columns: what the F numbers are.

    Raises:
        ValueError: no steps, or not as many of one as of the other.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(folder + "/steps.png", ["walk", "walk", "run"], inputs=np.random.rand(3, 2)).name
    'steps.png'
    """
    path, steps = Path(path), len(predicted)
    given = {"truth": truth, "inputs": inputs, "times": times}
    if not steps or any(value is not None and len(value) != steps for value in given.values()):
        counts = ", ".join(f"{name} {len(value)}" for name, value in given.items() if value is not None)
        raise ValueError(f"timeline.draw expected at least one step, and as many of all: predicted {steps}, {counts}.")
    edges = _edges(times, steps)
    multi = not isinstance(predicted[0], str)
    strips = [("true", truth), ("predicted", predicted)] if truth is not None else [("predicted", predicted)]
    rows = _rows([labels for _, labels in strips], names) if multi else []
    heights = [max(0.8, 0.11 * len(rows))] if multi else [0.35] * len(strips)
    heights += [] if inputs is None else [_height(inputs)]
    figure = Figure(figsize=(_INCHES, 0.9 + sum(heights)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.02, h_pad=0.03)  # type: ignore[union-attr]
    axes = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if multi:
        legend = _roll(axes[0], predicted, truth, rows, edges)
    else:
        looks = styles([*names, *sorted({label for _, labels in strips for label in labels})])  # type: ignore[misc]
        used: dict[str, None] = {}
        for place, (title, labels) in zip(axes, strips, strict=False):
            used |= dict.fromkeys(_strip(place, title, labels, edges, looks))  # type: ignore[arg-type]
        legend = [
            Patch(
                facecolor=looks[name].colour, hatch=_HATCHES[looks[name].mark], edgecolor="#000000", linewidth=0.3, label=name
            )
            for name in looks
            if name in used
        ]
    if inputs is not None:
        _inputs(axes[-1], np.asarray(inputs), edges, columns)
    for place in axes[:-1]:
        place.tick_params(bottom=False)
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel("step" if times is None else "seconds")
    for handle in legend:
        handle.set_label(_shown(str(handle.get_label())))
    figure.legend(handles=legend[:40], loc="outside upper center", ncols=min(len(legend), 8), frameon=False, fontsize=8)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script without a font here, drawn as a box
        figure.savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, picture.getvalue())
    return path


def _edges(times: np.ndarray | None, steps: int) -> np.ndarray:
    """Where steps begin, and where the last one ends: (T + 1,); it is as long as they are in the middle."""
    if times is None:
        return np.arange(steps + 1, dtype=np.float64)
    times = np.asarray(times, dtype=np.float64)
    return np.append(times, times[-1] + (float(np.median(np.diff(times))) if steps > 1 else 1.0))


def _strip(axes: Axes, title: str, labels: Sequence[str], edges: np.ndarray, looks: dict[str, Any]) -> list[str]:
    """One row of coloured segments with their names where there is room; returns which labels are there."""
    groups = np.array_split(np.arange(len(labels)), min(len(labels), _ACROSS))
    if len(groups) < len(labels):
        labels = [Counter(labels[int(n)] for n in group).most_common(1)[0][0] for group in groups]
        edges = np.append(edges[[group[0] for group in groups]], edges[-1])
    whole = edges[-1] - edges[0]
    for label, start, end in segments(labels):
        look, left, width = looks[label], edges[start], edges[end] - edges[start]
        hatch = _HATCHES[look.mark]
        axes.broken_barh([(left, width)], (0, 1), facecolor=look.colour, hatch=hatch, edgecolor="#000000", linewidth=0)
        if width / whole * _INCHES * 0.85 > 0.085 * len(label) + 0.05:  # inches that 8 point letters need
            box = {"facecolor": look.colour, "edgecolor": "none", "pad": 0.5} if hatch else None
            axes.text(left + width / 2, 0.5, _shown(label), ha="center", va="center", fontsize=8, color=look.ink, bbox=box)
    axes.set(ylim=(0, 1), yticks=[0.5], yticklabels=[title])
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    return sorted(set(labels))


def _rows(several: Sequence[Any], names: Sequence[str]) -> list[str]:
    """The labels that are there at any step, the first one to be at the bottom."""
    there = {label for labels in several for step in labels for label in step}
    return [name for name in dict.fromkeys([*names, *sorted(there)]) if name in there]


def _roll(axes: Axes, predicted: Any, truth: Any, rows: Sequence[str], edges: np.ndarray) -> list[Patch]:
    said = np.array([[name in step for name in rows] for step in predicted], dtype=np.int64).reshape(len(predicted), len(rows))
    true = said if truth is None else np.array([[name in step for name in rows] for step in truth], dtype=np.int64)
    kinds = [("right" if truth is not None else "predicted", "#000000"), ("not predicted", "#56B4E9"), ("not true", "#D55E00")]
    image = np.where(said & true, 1, np.where(true, 2, np.where(said, 3, 0)))
    colours = ListedColormap(["#FFFFFF", *(colour for _, colour in kinds)])
    if rows:
        axes.pcolormesh(edges, np.arange(len(rows) + 1), image.T, cmap=colours, vmin=0, vmax=3)
    every = max(1, len(rows) // 30)
    axes.set_yticks(np.arange(0, len(rows), every) + 0.5, [_shown(name) for name in rows[::every]], fontsize=7)
    return [Patch(facecolor=colour, label=name) for name, colour in (kinds if truth is not None else kinds[:1])]


def _height(inputs: np.ndarray) -> float:
    """In inches."""
    if inputs.ndim == 4:
        return _INCHES / _PICTURES * inputs.shape[1] / inputs.shape[2]
    return 0.6 + 0.3 * inputs.shape[1] if inputs.shape[1] <= _CURVES else 2.5


def _inputs(axes: Axes, inputs: np.ndarray, edges: np.ndarray, columns: Sequence[str]) -> None:
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    if inputs.ndim == 4:
        places = np.linspace(edges[0], edges[-1], _PICTURES + 1)
        coloured = inputs.dtype == np.uint8 and inputs.shape[-1] == 3
        scale = {} if coloured else {"cmap": "gray", "vmin": inputs.min(), "vmax": inputs.max()}
        for left, right in itertools.pairwise(places):
            step = min(int(np.searchsorted(edges, (left + right) / 2, "right")) - 1, len(inputs) - 1)
            picture = inputs[step] if coloured else inputs[step].mean(-1)
            axes.imshow(picture, extent=(left, right, 0, 1), aspect="auto", **scale)
        axes.set_ylim(0, 1)
        return
    groups = np.array_split(np.arange(len(inputs)), min(len(inputs), _ACROSS))
    if inputs.shape[1] > _CURVES:
        image = np.stack([inputs[group].mean(0) for group in groups])
        border = np.append(edges[[group[0] for group in groups]], edges[-1])
        axes.pcolormesh(border, np.arange(inputs.shape[1] + 1), image.T, cmap="cividis", rasterized=True)
        return
    middles = (edges[:-1] + edges[1:]) / 2
    for place in range(inputs.shape[1]):
        values = inputs[:, place].astype(np.float64)
        low, high = np.nanmin(values), np.nanmax(values)
        scaled = (values - low) / (high - low) * 0.9 if high > low else np.full_like(values, 0.45)
        ends = np.array([(scaled[group].min(), scaled[group].max()) for group in groups]).ravel()
        x = np.repeat(middles[[group[len(group) // 2] for group in groups]], 2)
        axes.plot(x, ends + inputs.shape[1] - 1 - place, color="#333333", linewidth=0.8)
    if columns:
        axes.set_yticks(
            inputs.shape[1] - 0.55 - np.arange(inputs.shape[1]), [_shown(str(name)) for name in columns], fontsize=8
        )
        axes.tick_params(left=False)


def _shown(name: str) -> str:
    """Without what matplotlib would take for mathematics, and without a leading underscore, which it would leave out."""
    return (("\u200b" + name if name.startswith("_") else name) or "(empty)")[:24].replace("$", r"\$")
