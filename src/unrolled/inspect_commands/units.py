"""`unrolled inspect units`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags
from unrolled.errors import DataError, RunError
from unrolled.inspect_commands.answer import FOLDER, JSON, answer


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("text", nargs=-1, required=True)
@click.option("--unit", "asked", multiple=True, metavar="l0.17", help="Colour the text by this unit too; may be repeated.")
@click.option(
    "--labels",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="More that may be tracked: an object of names, each with a list of numbers, one for each token of the text.",
)
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed of the control's shifts.")
@FOLDER
@JSON
def units(
    run: Path, text: tuple[str, ...], asked: tuple[str, ...], labels: Path | None, seed: int, show: Path | None, as_json: bool
) -> None:
    """Find the hidden units that keep track of something in TEXT: quotes, brackets, indentation, the line, a keyword.

    Each has its correlation with that on the half of the text that did not find it, and beside it the control: what the best
    of all units scores with the labels shifted in time.

    The text coloured by each of them goes beside the figure, as HTML and PNG.

    unrolled inspect units runs/my-run held-out.txt
    """
    from unrolled.inspection import units as inspection
    from unrolled.tasks import load

    model = load(run)
    read = getattr(model, "activations", None)
    if read is None:
        raise RunError(f"{run}: expected a run that reads text, such as language-model's, got another. Give one of these.")
    more = _read(labels) if labels else {}
    activations = read(*text)
    named = activations.names()
    asked = tuple(named[inspection.position(activations, unit)] for unit in asked)
    if activations.unknown:
        click.echo(f"{activations.unknown:,} of {len(activations.pieces):,} tokens are such as the run never saw", err=True)
    found = inspection.find(activations, more, seed=seed)
    if left_out := set(more) - {one.name for one in found}:
        click.echo(f"left out, being the same throughout a half: {', '.join(sorted(left_out))}", err=True)
    folder = show or run / "inspect"
    best: dict[str, str] = {}
    for one in found:
        for tracking in one.tracked_by[:1]:
            said = f"{one.name} (correlation {tracking.correlation:+.2f})"
            best[tracking.unit] = ", ".join(filter(None, [best.get(tracking.unit), said]))
    answer(
        inspection.draw(found),
        inspection.numbers(found),
        inspection.shown(found),
        name="units",
        show=folder,
        as_json=as_json,
    )
    for unit in dict.fromkeys([*asked, *best]):
        title = ": ".join(filter(None, [f"Unit {unit} after each token of {', '.join(text)}", best.get(unit)]))
        for form in ("html", "png"):
            click.echo(inspection.draw_text(folder / f"{unit}.{form}", activations, unit, title), err=True)


def _read(labels: Path) -> dict[str, Any]:
    """The file of labels.

    Raises:
        DataError: missing, not JSON of finite numbers, or no object.
    """
    from unrolled import files

    try:
        found = files.parse_json(labels.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{labels}: cannot be read as JSON ({files.reason(error)}).") from None
    if not isinstance(found, dict):
        raise DataError(f"{labels}: expected an object of names and lists of numbers, got {type(found).__name__}.")
    return found
