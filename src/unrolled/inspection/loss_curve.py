"""The loss over a run, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from unrolled import checkpoint

FILE = "loss.png"


def draw(folder: Path) -> Path | None:
    """Draw the training and validation loss of a run folder into its `loss.png`; None if nothing was reported yet."""
    reports = checkpoint.read_metrics(folder)
    parts = {part: [line for line in reports if line["part"] == part and "loss" in line] for part in ("train", "validation")}
    if not parts["train"]:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in parts["train"]], [line["loss"] for line in parts["train"]], lw=0.8, label="training")
    if parts["validation"]:
        steps, losses = zip(*((line["step"], line["loss"]) for line in parts["validation"]), strict=True)
        axes.plot(steps, losses, "o-", ms=4, color="tab:red", label="validation")
        best = min(range(len(losses)), key=losses.__getitem__)
        axes.annotate(
            f"best {losses[best]:.3f}",
            (steps[best], losses[best]),
            xytext=(-8, 12),
            textcoords="offset points",
            ha="right",
        )
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=folder.name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    checkpoint.write_atomically(folder / FILE, picture.getvalue())
    return folder / FILE
