"""A command's answer on stdout: one JSON object for a program, aligned lines for a person."""

from __future__ import annotations

import json
from typing import Any

import click


def print_values(values: dict[str, Any], as_json: bool) -> None:
    """Print values by name; without JSON, what a value of several holds stands line by line beside its name.

    >>> print_values({"loss": 1.25, "steps": 1000, "best": {"loss": 1.0, "step": 900}}, as_json=False)
    loss   1.2500
    steps  1,000
    best   loss=1.0
           step=900
    """
    if as_json:
        click.echo(json.dumps(values, allow_nan=False))
        return
    width = max(map(len, values))
    for name, value in values.items():
        lines = (
            [f"{k}={_short(v) if isinstance(v, dict) else v}" for k, v in value.items()]
            if isinstance(value, dict)
            else [_short(value)]
        )
        for number, line in enumerate(lines):
            click.echo(f"{name if number == 0 else '':<{width}}  {line}")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
