"""How a label looks in every picture: eight colours that colour-blind people tell apart; beyond eight labels, a mark too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#DDDDDD")
"""Okabe and Ito 2008, Color universal design, with a light grey in place of black, on which nothing can be written."""

MARKS = 4
"""None, and three that every kind of picture has: hatches, or lines under a text."""


@dataclass(frozen=True)
class Style:
    colour: str
    ink: str
    """What can be read on it, black or white."""
    mark: int
    """Which of MARKS; with more than 32 labels some look the same."""


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The look of each label, by its place among the names: give a model's labels in its own order, and they keep their looks.

    >>> styles(["walk", "run"])["run"]
    Style(colour='#E69F00', ink='#000000', mark=0)
    """
    found = {}
    for n, name in enumerate(dict.fromkeys(names)):
        colour = COLOURS[n % len(COLOURS)]
        found[name] = Style(colour, "#FFFFFF" if colour == "#0072B2" else "#000000", n // len(COLOURS) % MARKS)
    return found
