"""`unrolled inspect steps`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from unrolled.errors import RunError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the pictures go.  [default: RUN/inspect/steps]",
)
def steps(run: Path, inputs: tuple[str, ...], show: Path | None) -> None:
    """Draw what a model did step by step, and where it looked: of any run, on INPUT or on a few examples of its own.

    Captions and translations with their attention, the path of glimpses, the windows of a drawing, labels over time, and how
    likely a language model took each token to be. Prints the path of each picture.

    unrolled inspect steps runs/my-run photo.jpg
    """
    from unrolled.tasks import load

    model = load(run)
    gallery = getattr(model, "gallery", None)
    if gallery is None:
        raise RunError(f"{run}: its task draws no steps; see `gallery` in unrolled.task.Run.")
    for path in gallery(show or run / "inspect" / "steps", *inputs):
        click.echo(path)
