"""A sequence with its labels, as every reader gives it: words, characters, or rows of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["words", "characters", "numbers", "audio", "video"]
"""What the steps of a sequence are."""


@dataclass(frozen=True)
class Sequence:
    """One sequence as a reader gives it, before anything is learned from it."""

    name: str
    """What a person calls it: the file, or the file and the number of the sentence ("train.conllu, sentence 12")."""
    inputs: Any
    """words: list[str] of T; characters: str; numbers and audio: float32 (T, F); video: float32 (T, C), features of a CNN, or
    uint8 (T, height, width, 3)."""
    labels: Any = None
    """Per step: list[str] of T, of several labels at once list[frozenset[str]]. Per sequence: str, of several frozenset[str].
    None: not labelled."""
    times: np.ndarray | None = None
    """Seconds at which each step begins (T,), where there is a clock."""

    def __len__(self) -> int:
        """Its number of steps, T."""
        return len(self.inputs)


BETWEEN = "|"
"""What stands in a file between several labels of one step."""


def parse_label(text: str, multi: bool) -> str | frozenset[str]:
    """A label as a file has it; of several at once a set, which may be empty.

    >>> parse_label("C|E|G", multi=True) == frozenset("CEG"), parse_label("C|E", multi=False)
    (True, 'C|E')
    """
    if not multi:
        return text
    return frozenset(part for each in text.split(BETWEEN) if (part := each.strip()))


def written_label(label: str | frozenset[str]) -> str:
    """The inverse of `parse_label`."""
    return label if isinstance(label, str) else BETWEEN.join(sorted(label))
