"""`unrolled inspect truncation`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from unrolled.inspect_commands.answer import FOLDER, JSON, answer


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", nargs=-1)
@click.option(
    "--steps",
    type=click.IntRange(2, 10**6),
    help="Steps of the full gradient, for runs that read a long sequence in windows.  [default: 256, or four times its k2]",
)
@FOLDER
@JSON
def truncation(run: Path, data: tuple[str, ...], steps: int | None, show: Path | None, as_json: bool) -> None:
    """Which k2 is enough: how far a truncated gradient of RUN is from the full one, on DATA or on what it was trained on.

    unrolled inspect truncation runs/my-run held-out.txt
    """
    from unrolled.inspection import truncation as inspection
    from unrolled.progress import Progress
    from unrolled.tasks import reopened

    with Progress().counting() as report:
        found = reopened.truncation(run, data, steps=steps, report=report)
    shown = {f"k1 = {row.k1}, k2 = {row.k2}": f"cosine {row.cosine:.4f}  norm {row.norm:.4f}" for row in found.rows}
    figure = inspection.draw(found, ", on ".join([str(run), *filter(None, [", ".join(data)])]))
    numbers = {**found.numbers(), "data": list(data)}
    answer(figure, numbers, shown, name="truncation", show=show, run=run, as_json=as_json)
