"""The loss over a run, as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrolled import checkpoint, files
from unrolled.task import Metric

FILE = "loss.png"


def draw(folder: str | Path, loss_name: str = "loss", selection: Metric | None = None) -> Path | None:
    """Draw the training loss and the validation metric of a run folder into its `loss.png`; None if nothing was reported yet.

    Both share one plot where they are the same measure; else the metric has a plot of its own below.

    Args:
        folder: the run folder.
        loss_name: what the training loss is; a task's `loss_name`.
        selection: the metric to draw; a task's `selection`. The loss when left out.
    """
    folder, selection = Path(folder), selection or Metric(unit=loss_name)
    reports = checkpoint.read_metrics(folder)
    training = [line for line in reports if line["part"] == "train" and "loss" in line]
    validation = [line for line in reports if line["part"] == "validation" and selection.name in line]
    if not training:
        return None
    apart = bool(validation) and selection.unit != loss_name
    figure = Figure(figsize=(7, 6 if apart else 4), layout="constrained")
    plots = figure.subplots(2 if apart else 1, sharex=True, squeeze=False)[:, 0]
    plots[0].plot([line["step"] for line in training], [line["loss"] for line in training], lw=0.8, label="training")
    plots[0].set(ylabel=f"loss ({loss_name})" if loss_name != "loss" else "loss", title=folder.name)
    if validation:
        _draw_validation(plots[-1], validation, selection)
    if apart:
        plots[1].set(ylabel=f"{selection.name} ({selection.unit})" if selection.name == "loss" else selection.unit)
    plots[-1].set(xlabel="step")
    for axes in plots:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_atomically(folder / FILE, picture.getvalue())
    return folder / FILE


def _draw_validation(axes: Axes, reports: list[dict[str, Any]], selection: Metric) -> None:
    steps, values = [line["step"] for line in reports], [line[selection.name] for line in reports]
    axes.plot(steps, values, "o-", ms=4, color="tab:red", label="validation")
    best = (min if selection.lower_is_better else max)(range(len(values)), key=values.__getitem__)
    axes.annotate(
        f"best {values[best]:.3f}",
        (steps[best], values[best]),
        xytext=(-8, 12 if selection.lower_is_better else -16),
        textcoords="offset points",
        ha="right",
    )
