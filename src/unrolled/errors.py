"""Errors that the user can correct. The command line prints their one line and exits with code 2, no traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Self


class UnrolledError(Exception):
    """Something the user gave cannot be used. The text says what, what was expected, what was received, what to do."""

    everywhere = False
    """Whether every process of a run raises it, so that one of them need say it."""

    def in_every_process(self) -> Self:
        """The same error, marked as one that every process raises."""
        self.everywhere = True
        return self


class DataError(UnrolledError):
    """Text, images or another input that cannot be read or is too little to learn from."""


class TooShortError(DataError):
    """Text that is shorter than what is asked of it at once; a shorter window or fewer streams may do."""


class ConfigError(UnrolledError):
    """Settings that are unknown, of the wrong kind or at odds with each other; all problems are in one text.

    Args:
        text: a line for each problem.
        arguments: the settings that were given by name, with which lines may begin.

    >>> ConfigError("hidden_size: expected a whole number, got 'x'.", ["hidden_size"]).with_flags()
    "--hidden-size: expected a whole number, got 'x'."
    """

    def __init__(self, text: str, arguments: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.arguments = frozenset(arguments)

    def with_flags(self) -> str:
        """The text as the command line has it, where the arguments are flags."""
        words = [re.match(r"\w*", line)[0] for line in str(self).splitlines()]  # type: ignore[index]  # matches nothing, too
        return "\n".join(
            f"--{word.replace('_', '-')}{line[len(word) :]}" if word in self.arguments else line
            for word, line in zip(words, str(self).splitlines(), strict=True)
        )


class RunError(UnrolledError):
    """A run folder that is missing, damaged, of another format or does not fit what is asked of it."""


class ExportError(UnrolledError):
    """A model that cannot be written in the format asked for, or a file that cannot be written."""


class NotFiniteError(UnrolledError, ValueError):
    """A model's scores are not numbers, so there is nothing to choose by; a `ValueError` too."""


class DivergenceError(UnrolledError):
    """Training met a loss or a gradient that is not a number; the last good checkpoint is kept."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'hidden_size'?"` when one of the known names is close to the one received, else nothing.

    >>> nearest("hiden_size", ["hidden_size", "num_layers"])
    " Did you mean 'hidden_size'?"
    >>> nearest("zzz", ["hidden_size"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
