"""Learns to find scikit-learn's handwritten digits on larger cluttered canvases, and to read them, in a few glimpses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from unrolled.task import Demo, Preview

if TYPE_CHECKING:
    from unrolled.tasks.glimpse.task import Run


def demo(folder: Path) -> Demo:
    """Writes folder/digits.npz and folder/unseen.npz, as `save_digits` has them, of 16 x 16 pixels."""
    from unrolled.data.digits import save_digits

    digits, unseen = save_digits(folder)
    return Demo(
        data=(digits,),
        settings={
            "canvas": 40,
            "clutter": 4,
            "clutter_size": 5,
            "distort": 0.05,
            "attention": "soft",  # learns where to look in far fewer steps
            "glimpses": 4,
            "glimpse_size": 12,
            "scales": 2,
            "hidden_size": 192,
            "every_glimpse": True,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "max_steps": 5000,
            "evaluate_every": 1000,
            "sample_every": 1000,
            "save_every": 1000,
            "patience": 0,
        },
        unseen=(unseen,),
        preview=lambda run: find_unseen(run, unseen),
    )


def find_unseen(run: Run, path: str) -> Preview:
    """What it says of digits that it never saw, and how often it ends up looking at the digit."""
    from unrolled.tasks.glimpse import data

    looks = run.look(path)
    _, height, width = run.facts.shape
    images = data.read([path], run.config, lambda line: None, run.facts).images
    corners = [corner for at in range(0, len(images), data.AT_ONCE) for corner in data.to_measure_on(images, run.config, at)[1]]

    def share(places: list[tuple[float, float]]) -> float:
        on = [
            top <= y <= top + height and left <= x <= left + width for (y, x), (top, left) in zip(places, corners, strict=True)
        ]
        return sum(on) / len(on)

    centre = run.config.canvas / 2
    last = share([(look.glimpses[-1].row, look.glimpses[-1].column) for look in looks])
    pictures = [run.folder / "pictures" / name for name in ("unseen.png", "unseen.gif")]
    run.draw(looks[:8], *pictures)
    preview = run.preview()
    middle, anywhere = share([(centre, centre)] * len(looks)), height * width / run.config.canvas**2
    lines = [
        preview.text,
        "",
        f"Its last glimpse is centred on the digit in {last:.0%} of {len(looks)} unseen images:",
        *map(str, pictures),
        f"The middle of the canvas is on it in {middle:.0%}, a random place in {anywhere:.0%}.",
    ]
    return dataclasses.replace(preview, text="\n".join(lines))
