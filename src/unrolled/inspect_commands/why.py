"""`unrolled inspect why`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed of weights and inputs.")
def why(folder: Path, seed: int) -> None:
    """Make the figures of the lesson on why recurrent networks are hard: PNG, SVG and numbers, into FOLDER, in half a minute.

    unrolled inspect why figures
    """
    from unrolled.inspection.why import make

    for path in make(folder, seed):
        click.echo(path)
