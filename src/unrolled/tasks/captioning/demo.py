"""Draws pictures such as "a small red circle above a blue square", and learns to see and to describe them from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unrolled.task import Demo, Preview
from unrolled.tasks.captioning import shapes

if TYPE_CHECKING:
    from unrolled.tasks.captioning.task import Run

DRAWINGS, UNSEEN, SHOWN = 6000, 200, 6
"""Drawings to learn from; sentences that none of them shows, each drawn once to measure on; pictures of attention."""


def demo(folder: Path) -> Demo:
    """Draws into folder/learn and folder/unseen. The CNN has fresh weights, so no package of pretrained ones is needed."""
    chance = np.random.default_rng(0)
    sentences, unseen = shapes.split(chance, UNSEEN)
    shapes.write(folder / "learn", chance.choice(sentences, DRAWINGS).tolist(), chance)
    shapes.write(folder / "unseen", unseen, chance)
    return Demo(
        data=(str(folder / "learn"),),
        settings={
            "encoder": "small",
            "fine_tune_from": 1,
            "encoder_rate": 1.0,
            "crops": 1.0,  # where a shape stands is part of the sentence: neither cut
            "flips": False,  # nor mirrored
            "minimum_count": 1,
            "hidden_size": 128,
            "heads": 4,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "weight_decay": 0.01,
            "learning_rate": 3e-3,
            "max_steps": 2000,
            "evaluate_every": 500,
            "sample_every": 500,
            "save_every": 500,
        },
        unseen=(str(folder / "unseen"),),
        preview=lambda run: describe_unseen(run, folder / "unseen"),
    )


def describe_unseen(run: Run, folder: Path) -> Preview:
    """Caption the drawings of `folder`, count the captions that are exactly right, and draw where the model looked."""
    from unrolled.inspection import attention_maps

    right = shapes.read(folder)
    lines, correct = [], 0
    for number, one in enumerate(run.caption(folder / "images", show=True)):
        name, caption = Path(one.image).name, one.captions[0].text
        correct += caption == right[name]
        if number < SHOWN and one.photo:
            attention_maps.draw(run.folder / "pictures" / name, one.photo, one.words, one.weights)
            lines.append(f"{name}: {caption}")
            if caption != right[name]:
                lines.append(f"{'right is':>{len(name)}}: {right[name]}")
    lines += [
        "",
        f"{correct} of {len(right)} captions are exactly right ({correct / len(right):.0%});",
        "none of these sentences was in the training set.",
        f"Attention maps: {run.folder / 'pictures'}",
    ]
    return Preview(
        "drawings it has never seen",
        "\n".join(lines),
        (
            f"unrolled caption {run.folder} {folder / 'images'} --captions 3",
            "unrolled train captioning YOUR_PHOTOS_AND_CAPTIONS",
        ),
    )
