"""Reads dates as people write them in thirty-two languages and regions, and writes them as 2026-11-28."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unrolled.task import Demo, Preview
from unrolled.tasks.translation import dates

if TYPE_CHECKING:
    from unrolled.tasks.translation.task import Run

LINES, UNSEEN, SHOWN, PICTURES = 30_000, 1000, 10, 3
"""Lines to learn from; days that no line has, in no language, to measure on; examples at the end; those with pictures."""


def demo(folder: Path) -> Demo:
    """Writes folder/learn.tsv and folder/unseen.tsv, and the left column of this as folder/unseen.txt."""
    chance = np.random.default_rng(0)
    days, unseen = dates.split(chance, UNSEEN)
    dates.write(folder / "learn.tsv", chance.choice(days, LINES).tolist(), chance)
    pairs = dates.write(folder / "unseen.tsv", unseen.tolist(), chance)
    (folder / "unseen.txt").write_text("".join(f"{source}\n" for source, _ in pairs), encoding="utf-8")
    return Demo(
        data=(str(folder / "learn.tsv"),),
        settings={
            "unit": "char",
            "vocabulary": "separate",
            "validation_fraction": 0.01,
            "cell": "gru",
            "hidden_size": 192,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "beam": 1,
            "longest": 64,
            "batch_size": 128,
            "learning_rate": 4e-3,
            "max_steps": 1200,
            "evaluate_every": 400,
            "sample_every": 250,
            "save_every": 400,
        },
        unseen=(str(folder / "unseen.tsv"),),
        preview=lambda run: translate_unseen(run, folder),
    )


def translate_unseen(run: Run, folder: Path) -> Preview:
    """Translate the unseen dates of `folder`, count the right ones, and draw what a few of them attended to."""
    from unrolled.inspection import alignment

    pairs = [line.split("\t") for line in (folder / "unseen.tsv").read_text(encoding="utf-8").splitlines()]
    found = list(run.translate(source for source, _ in pairs))
    right = [one.translations[0].text == target for one, (_, target) in zip(found, pairs, strict=True)]
    lines = []
    for number, (one, (source, target)) in enumerate(zip(found[:SHOWN], pairs, strict=False)):
        answer = one.translations[0].text
        lines.append(f"{source}  ->  {answer}{'' if answer == target else f'   (right is {target})'}")
        if number < PICTURES:
            alignment.draw(run.folder / "pictures" / f"{number + 1}.png", *run.attention(one))
    lines += [
        "",
        f"{sum(right):,} of {len(right):,} are exactly right ({sum(right) / len(right):.2%}); none of these days was in the",
        f"training set, in any language. What it attended to in the first {PICTURES}: {run.folder / 'pictures'}",
    ]
    return Preview(
        "dates it has never seen",
        "\n".join(lines),
        (
            f"unrolled translate {run.folder} {folder / 'unseen.txt'}",
            "unrolled train translation YOUR_SENTENCES.txt THEIR_TRANSLATIONS.txt",
        ),
        answer=lambda line: next(run.translate(line)).translations[0].text,
    )
