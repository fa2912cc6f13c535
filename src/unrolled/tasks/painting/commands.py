"""What a painter can do: `unrolled paint`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

_FILE = click.Path(path_type=Path, dir_okay=False)
_FRAMES = 120
"""Of a film."""
_FILM_SIZE = 512
"""Pixels of a film's longer side, if the painting has not fewer."""


@click.command()
@click.argument("photo", type=click.Path(allow_dash=True))
@click.option("--run", type=click.Path(path_type=Path), help="A painter that you trained.  [default: the one that is built in]")
@click.option("--strokes", default=1000, show_default=True, type=click.IntRange(1, 1_000_000), help="How many at most.")
@click.option(
    "--style",
    default="fine",
    show_default=True,
    type=click.Choice(["fine", "broad", "flat"]),
    help="Fine strokes, broad ones, or flat ones without bristles.",
)
@click.option("--size", default=1024, show_default=True, type=click.IntRange(1, 65_500), help="Pixels of the longer side.")
@click.option("--optimise", is_flag=True, help="Refine the strokes by gradient descent afterwards: closer, and slow.")
@click.option("-o", "--output", metavar="FILE", type=_FILE, help="Where to, .png or .jpg.  [default: beside PHOTO]")
@click.option("--svg", metavar="FILE", type=_FILE, help="Write the strokes as SVG too, without bristles.")
@click.option("--film", metavar="FILE", type=_FILE, help="Write how the painting grows too, .gif or .mp4.")
@click.option("--json", "json_file", metavar="FILE", type=_FILE, help="Write the strokes as JSON too.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def paint(
    photo: str,
    run: Path | None,
    strokes: int,
    style: str,
    size: int,
    optimise: bool,
    output: Path | None,
    svg: Path | None,
    film: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Paint a photo in oil, stroke after stroke; print where the painting is.

    The file can be looked at while it is painted: it is written anew every few seconds.

    unrolled paint photo.jpg

    unrolled paint photo.jpg --strokes 4000 --size 2048 --film growing.mp4
    """
    output = output or (Path("painting.png") if photo == "-" else Path(photo).with_name(f"{Path(photo).stem}-painted.png"))
    allowed = {(".png", ".jpg", ".jpeg"): output, (".svg",): svg, (".gif", ".mp4"): film, (".json",): json_file}
    for endings, path in allowed.items():
        if path and path.suffix.lower() not in endings:
            raise click.UsageError(f"{path}: expected a name that ends in {' or '.join(endings)}.")
        if path and not path.absolute().parent.is_dir():
            raise click.UsageError(f"{path}: there is no folder {path.parent}. Make it first.")
        if path and path.exists() and photo != "-" and Path(photo).exists() and path.samefile(photo):
            raise click.UsageError(f"{path}: this is the photo itself, which would be lost. Name another file.")
    from unrolled.inspection import animation
    from unrolled.progress import Progress
    from unrolled.tasks import load
    from unrolled.tasks.painting import pictures
    from unrolled.tasks.painting.task import SHIPPED

    if film:
        animation.require(film)
    painter = load(run or SHIPPED, task="painting")
    picture = pictures.pixels(photo)
    pictures.require_room(picture.shape[1] / picture.shape[2], size)
    growing, laid = pictures.Growing(output, size), 0
    with Progress(quiet).counting() as report:

        def told(piece) -> None:  # type: ignore[no-untyped-def]  # torch is not loaded before the command runs
            nonlocal laid
            laid += len(piece.strokes.opacity)
            report("strokes", laid, strokes)
            growing.add(piece)

        def refined(done: int, of: int) -> None:
            report("steps of refining", done, of)

        painting = painter.paint(picture, strokes, style=style, told=told, refined=refined)
        growing.finish(painting)
        if optimise:
            painting = painter.optimise(painting, picture, told=refined)
            pictures.write(output, painting, size)
    for path in (svg, json_file):
        if path:
            painting.save(path)
    if film:
        pictures.write_film(film, painting, min(size, _FILM_SIZE), _FRAMES)
    click.echo(output)


COMMANDS = [paint]
