"""What only a trained network that looks can do: `unrolled look`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--glimpses", type=click.IntRange(1, 1024), help="How often to look.  [default: as in training]")
@click.option(
    "--samples",
    type=click.IntRange(0, 10_000),
    help="Paths to draw, whose probabilities are averaged; 0: along the policy's means.  [default: as in training]",
)
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed: the same seed draws the same path.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw the path and what was seen of each image, as PNG and as an animation.",
)
@click.option("--film", type=click.Choice(["gif", "mp4"]), default="gif", show_default=True, help="With --show: the animation.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image.")
def look(
    run: Path,
    images: tuple[str, ...],
    glimpses: int | None,
    samples: int | None,
    seed: int,
    show: Path | None,
    film: str,
    as_json: bool,
) -> None:
    """Say what IMAGE shows: files, folders, IDX or npz files. Where it looked, and what it said after each glimpse.

    unrolled look runs/my-run photo.png

    unrolled look runs/my-run digits/ --show pictures
    """
    from unrolled.inspection import animation
    from unrolled.tasks import load

    settings = {name: value for name, value in (("glimpses", glimpses), ("samples", samples)) if value is not None}
    if show:
        animation.require(show / f"00001.{film}")
    model = load(run, task="glimpse", **settings)
    found = model.look(images, seed=seed)
    if show:
        for number, one in enumerate(found, 1):
            model.draw([one], show / f"{number:05}.png", show / f"{number:05}.{film}")
    if as_json:
        for one in found:
            click.echo(json.dumps(_as_object(one), ensure_ascii=False))
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["image", "glimpse", "row", "column", "label", "probability"])
    for one in found:
        for number, each in enumerate(one.glimpses, 1):
            where = f"{each.row:.1f}", f"{each.column:.1f}"
            table.writerow([one.name, number, *where, each.label, f"{each.probability:.4f}"])


def _as_object(one: Any) -> dict[str, Any]:
    """`image`, `label` and `probability` in the end, and the same for each of the `glimpses`, with its place in pixels."""
    glimpses = [
        {
            "row": round(each.row, 2),
            "column": round(each.column, 2),
            "label": each.label,
            "probability": round(each.probability, 4),
        }
        for each in one.glimpses
    ]
    return {"image": one.name, "label": one.label, "probability": round(one.probability, 4), "glimpses": glimpses}


COMMANDS = [look]
