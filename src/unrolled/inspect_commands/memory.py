"""`unrolled inspect memory`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags
from unrolled.inspect_commands.answer import FOLDER, JSON, answer

_LENGTH = click.IntRange(min=2, max=100_000)


@click.command()
@click.option(
    "--cell",
    "cells",
    multiple=True,
    type=click.Choice(["rnn", "gru", "lstm"]),
    default=["rnn", "gru", "lstm"],
    show_default=True,
    help="Recurrent cell; may be repeated.",
)
@click.option(
    "--adding", multiple=True, type=_LENGTH, help="Length of the adding problem; may be repeated.  [default: 200, 600]"
)
@click.option("--copy", multiple=True, type=_LENGTH, help="Length of copy memory; may be repeated.  [default: 100]")
@click.option("--hidden-size", default=64, show_default=True, type=click.IntRange(1, 4096), help="Width of the hidden state.")
@click.option("--iterations", default=7000, show_default=True, type=click.IntRange(100, 10**7), help="For each, at most.")
@click.option(
    "--minutes",
    default=9.5,
    show_default=True,
    type=flags.Number(min=0, min_open=True),
    help="For all of them; each gets an equal share of what is left.",
)
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed of weights and data.")
@FOLDER
@JSON
def memory(
    cells: tuple[str, ...],
    adding: tuple[int, ...],
    copy: tuple[int, ...],
    minutes: float,
    show: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Which cell remembers how far: the adding problem and copy memory, learned from scratch within a budget.

    Ctrl-C ends it early: what was measured by then is shown and written.

    unrolled inspect memory

    unrolled inspect memory --cell gru --adding 400 --minutes 2
    """
    from unrolled.inspection import figures, memory_tests
    from unrolled.progress import Progress

    if not (adding or copy):
        adding, copy = (200, 600), (100,)
    figures.make_folder(show or Path("inspect"))
    trials: list[memory_tests.Trial] = []
    interrupted = False
    with Progress().counting() as report:
        try:
            for trial in memory_tests.measure(cells, adding=adding, copy=copy, seconds=60 * minutes, report=report, **settings):
                trials.append(trial)
        except KeyboardInterrupt:
            if not trials:
                raise
            interrupted = True
    figure, numbers = memory_tests.draw(trials), memory_tests.numbers(trials)
    answer(figure, numbers, memory_tests.shown(trials), name="memory", show=show, as_json=as_json)
    if interrupted:
        count = len(cells) * (len(adding) + len(copy))
        click.echo(f"Interrupted: shown are the {len(trials)} of {count} trials that were over.", err=True)
        sys.exit(130)
