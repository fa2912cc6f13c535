"""What only a trained drawing network can do: `unrolled draw`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to; .png, or with --steps and --reconstruct .gif or .mp4, which play.  [default: RUN/pictures/NAME.png]",
)
@click.option("--count", type=click.IntRange(1, 10_000), help="How many images.  [default: 64, with --steps 4]")
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed: the same seed draws the same images.")
@click.option("--class", "label", metavar="NAME", help="The class to draw, of a run trained with --conditional.")
@click.option(
    "--steps",
    is_flag=True,
    help="The image through time: DRAW's canvas with the window it writes through, or row by row.",
)
@click.option(
    "--reconstruct",
    metavar="IMAGE",
    multiple=True,
    help="DRAW: read IMAGE and draw it, step by step, with the windows it reads and writes through; may be repeated.",
)
@click.option(
    "--complete",
    metavar="IMAGE",
    multiple=True,
    help="PixelRNN: hide the lower half of IMAGE and draw it anew, --count times (4); may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def draw(
    run: Path,
    output: Path | None,
    count: int | None,
    seed: int,
    label: str | None,
    steps: bool,
    reconstruct: tuple[str, ...],
    complete: tuple[str, ...],
    as_json: bool,
) -> None:
    """Draw new images, as a sheet; print where it is.

    unrolled draw runs/my-run --count 100 --output samples.png

    unrolled draw runs/my-run --steps --output steps.gif
    """
    from unrolled.inspection import animation
    from unrolled.tasks import load

    asked = [name for name, given in (("steps", steps), ("reconstruct", reconstruct), ("complete", complete)) if given]
    if len(asked) > 1:
        raise click.UsageError(f"expected one of --steps, --reconstruct and --complete, got --{' and --'.join(asked)}.")
    what = asked[0] if asked else "samples"
    if what == "reconstruct" and count:
        raise click.UsageError("--count: --reconstruct draws each image once. Leave it out.")
    if what in ("reconstruct", "complete") and label:
        raise click.UsageError(f"--class: --{what} goes by the images that it is given. Leave it out.")
    plays = output is not None and output.suffix.lower() in (".gif", ".mp4")
    if output and not plays and output.suffix.lower() != ".png":
        raise click.UsageError(f"--output {output}: expected a name that ends with .png, .gif or .mp4.")
    if plays and what not in ("steps", "reconstruct"):
        raise click.UsageError(f"--output {output}: only --steps and --reconstruct play; a sheet is a .png.")
    model = load(run, task="drawing")
    path = output or run / "pictures" / f"{what}.png"
    animation.require(path)
    if what == "reconstruct":
        written = model.draw_reconstructed(path, *reconstruct, seed=seed)
    elif what == "complete":
        written = model.draw_completed(path, *complete, count=count or 4, seed=seed)
    elif what == "steps":
        written = model.draw_steps(path, count=count or 4, seed=seed, label=label)
    else:
        written = model.draw_samples(path, count=count or 64, seed=seed, label=label)
    click.echo(json.dumps({"picture": str(path), "images": written, "seed": seed}) if as_json else path)


COMMANDS = [draw]
