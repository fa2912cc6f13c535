"""Drawings of two shapes, each with the sentence that describes it: `a small red circle above a blue square`.

A sentence names the upper shape first, or the left one; "above" and "left of" never both hold, so that each drawing has exactly
one right sentence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f4fd6", "yellow": "#f2c200"}
KINDS = ("circle", "square", "triangle")
SIZES = {"": (12, 14), "small ": (7, 8)}
"""Half the width of a shape, in pixels, from and to."""
SIDE = 64
"""Of a drawing, in pixels."""
_FINER = 4  # drawn so many times larger, then made smaller, for smooth edges


def sentences() -> list[str]:
    """Every sentence there is: 1,152."""
    shapes = [f"a {size}{colour} {kind}" for size, colour, kind in itertools.product(SIZES, COLOURS, KINDS)]
    return [f"{one} {relation} {two}" for one, relation, two in itertools.product(shapes, ("above", "left of"), shapes)]


def draw(sentence: str, chance: np.random.Generator) -> Image.Image:
    """A drawing that the sentence describes; where on the white ground the shapes are, and how large, is up to chance."""
    relation = "above" if " above " in sentence else "left of"
    pair = sentence.split(f" {relation} ")
    halves = [int(chance.integers(*SIZES["small " if " small " in shape else ""], endpoint=True)) for shape in pair]
    while True:
        centres = [chance.integers(half + 1, SIDE - half - 1, size=2) for half in halves]
        across, down = centres[1] - centres[0]
        forward, aside = (down, across) if relation == "above" else (across, down)
        if forward > sum(halves) + 1 and forward > 1.5 * abs(aside):
            break
    image = Image.new("RGB", (SIDE * _FINER, SIDE * _FINER), "white")
    pen = ImageDraw.Draw(image)
    for shape, centre, half in zip(pair, centres, halves, strict=True):
        *_, colour, kind = shape.split()
        x, y, r = (int(number) * _FINER for number in (*centre, half))
        if kind == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        elif kind == "square":
            pen.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        else:
            pen.polygon([(x - r, y + r), (x, y - r), (x + r, y + r)], fill=COLOURS[colour])
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def write(folder: Path, described: Sequence[str], chance: np.random.Generator) -> None:
    """Draw the sentences into `folder`: images/0000.png and so on, and captions.tsv."""
    (folder / "images").mkdir(parents=True)
    lines = ["image\tcaption"]
    for number, sentence in enumerate(described):
        draw(sentence, chance).save(folder / "images" / f"{number:04}.png")
        lines.append(f"{number:04}.png\t{sentence}")
    (folder / "captions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, str]:
    """What `write` wrote: the name of each drawing's file, and its sentence."""
    lines = (folder / "captions.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines[1:])


def split(chance: np.random.Generator, unseen: int) -> tuple[list[str], list[str]]:
    """(sentences to learn from, `unseen` others, which no drawing to learn from shows)."""
    order = chance.permutation(sentences()).tolist()
    return order[unseen:], order[:unseen]
