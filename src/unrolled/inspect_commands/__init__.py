"""`unrolled inspect`: one file for each of its commands. None imports torch, so that `--help` is quick.

A command opens a run or a model, calls one function of `unrolled.inspection`, prints its numbers and where its pictures are.
"""

from __future__ import annotations

import rich_click as click

from unrolled.inspect_commands import gradients, memory, steps, sweep, truncation, units, why

COMMANDS: list[click.Command] = [
    gradients.gradients,
    truncation.truncation,
    sweep.sweep,
    units.units,
    memory.memory,
    steps.steps,
    why.why,
]


@click.group(no_args_is_help=True)
def inspect() -> None:
    """Look inside a model: what its gradients, states and attention do over time."""


for command in COMMANDS:
    inspect.add_command(command)
