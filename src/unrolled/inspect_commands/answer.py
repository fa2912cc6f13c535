"""What the commands of `unrolled inspect` share: where their pictures go, and how they answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from unrolled.printing import print_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write the figure as PNG and SVG, and its numbers as JSON.  [default: RUN/inspect, or inspect]",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print all numbers as one JSON object.")


def answer(
    figure: Figure,
    numbers: dict[str, Any],
    shown: dict[str, Any],
    *,
    name: str,
    show: Path | None,
    run: Path | None = None,
    as_json: bool = False,
) -> None:
    """Write a figure and its numbers as NAME.png, .svg and .json, and print: all numbers as JSON, or their `sentence` and the
    few that are `shown`.

    Raises:
        RunError: the folder cannot be made or written to.
    """
    from unrolled.inspection import figures

    picture, vector, values = figures.write(figure, numbers, show or (run / "inspect" if run else Path("inspect")), name)
    files = {"picture": str(picture), "vector": str(vector), "numbers": str(values)}
    if not as_json:
        click.echo(f"{numbers['sentence']}\n")
    print_values({**numbers, **files} if as_json else {**shown, **files}, as_json)
