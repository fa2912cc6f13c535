"""Kinds of values that several commands take. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import math
from typing import Any

import rich_click as click


class Number(click.FloatRange):
    """A number within bounds; `nan` and `inf`, which no bound keeps out, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


SEED = click.IntRange(min=0, max=2**63 - 1)
"""As large as random generators take."""
SENTENCES = click.IntRange(min=1, max=1000)
"""How many are searched or drawn at once: memory grows with it."""
