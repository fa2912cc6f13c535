"""What only a trained parity network can do: `unrolled parity`. Imports no torch."""

from pathlib import Path

import rich_click as click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("bits")
def parity(run: Path, bits: str) -> None:
    """Print the parity after each of BITS.

    unrolled parity runs/my-run 0110
    """
    from unrolled.tasks import load

    click.echo(load(run, task="parity").parity(bits))


COMMANDS = [parity]
