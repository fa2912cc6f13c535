"""What a reader of a text could keep track of: whether it is in quotes, how deep in brackets, how far into the line."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

_QUOTED = re.compile(
    r'"""[\s\S]*?"""|' + r"'''[\s\S]*?'''|"  # Python's, over several lines
    r'"(?:\\.|[^"\\\n]|\n(?!\s*\n))*"|'  # not over an empty line, so that one that is never closed does not turn round the rest
    r"“[^”]*”|«[^»]*»|„[^“”]*[“”]|"
    r"(?<!\w)'(?:\\.|[^'\\\n])*'(?!\w)"  # the apostrophe of don't opens nothing
)
_LINE_BEGINS = re.compile(r"^[ \t]*([^\W\d]\w*)", re.M)
_KEYWORDS, _OFTEN = 5, 20
"""Of the words that lines begin with, how many are looked at, and how many lines at least must begin so."""
_TAB = 8


def properties(text: str) -> dict[str, np.ndarray]:
    """What could be tracked, by name: a number after each character of the text, (N,), as it is when that one has been read.

    `inside quotes` (1 or 0), `bracket depth` (those in quotes do not count), `indentation` (columns of white space at the
    line's beginning, so far), `position in line` (characters), and for each of the five words that most lines begin with
    `after "word"` (1 to the end of that line, or 0). What is the same throughout is left out: nothing can track it.

    >>> found = properties('f("a(", 1)')
    >>> found["inside quotes"].astype(int).tolist(), found["bracket depth"].astype(int).tolist()
    ([0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1, 1, 0])
    """
    quoted = _spans(text, _QUOTED)
    found = {
        "inside quotes": quoted,
        "bracket depth": _depth(text, quoted),
        "indentation": _indentation(text),
        "position in line": _position(text),
        **_after_keywords(text),
    }
    return {name: values for name, values in found.items() if len(values) and np.ptp(values) > 0}


def _spans(text: str, pattern: re.Pattern[str]) -> np.ndarray:
    """1 from the first character of each match up to the last, which closes it."""
    inside = np.zeros(len(text))
    for found in pattern.finditer(text):
        inside[found.start() : found.end() - 1] = 1
    return inside


def _depth(text: str, quoted: np.ndarray) -> np.ndarray:
    depth, so_far = np.zeros(len(text)), 0
    for place, character in enumerate(text):
        if not quoted[place]:
            so_far += (character in "([{") - (character in ")]}")
            so_far = max(so_far, 0)
        depth[place] = so_far
    return depth


def _indentation(text: str) -> np.ndarray:
    columns, so_far, leading = np.zeros(len(text)), 0, True
    for place, character in enumerate(text):
        if character == "\n":
            so_far, leading = 0, True
        elif leading and character in " \t":
            so_far += _TAB - so_far % _TAB if character == "\t" else 1
        else:
            leading = False
        columns[place] = so_far
    return columns


def _position(text: str) -> np.ndarray:
    places = np.arange(len(text))
    ends = np.array([character == "\n" for character in text], dtype=bool)
    last_end = np.maximum.accumulate(np.where(ends, places, -1)) if len(text) else places
    return (places - last_end).astype(np.float64)


def _after_keywords(text: str) -> dict[str, np.ndarray]:
    begins = [(found[1], found.end()) for found in _LINE_BEGINS.finditer(text)]
    often = [word for word, count in Counter(word for word, _ in begins).most_common(_KEYWORDS) if count >= _OFTEN]
    after = {word: np.zeros(len(text)) for word in often}
    for word, start in begins:
        if word in after:
            end = text.find("\n", start)
            after[word][start - 1 : end if end >= 0 else len(text)] = 1
    return {f'after "{word}"': values for word, values in after.items()}
