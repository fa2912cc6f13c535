"""`unrolled inspect gradients`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags
from unrolled.inspect_commands.answer import FOLDER, JSON, answer


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.argument("data", nargs=-1)
@click.option(
    "--cell", type=click.Choice(["rnn", "lstm", "gru"]), help="In place of RUN: an untrained layer, which reads noise."
)
@click.option("--hidden-size", type=click.IntRange(1, 2**14), help="With --cell: width of the state.  [default: 128]")
@click.option("--num-layers", type=click.IntRange(1, 64), help="With --cell: how many layers.  [default: 1]")
@click.option("--seed", type=flags.SEED, help="With --cell: random seed of weights and noise.  [default: 0]")
@click.option("--steps", type=click.IntRange(2, 10**6), help="Steps to look back.  [default: as in training; with --cell 100]")
@click.option("--layer", metavar="NAME", help="Look at this module alone.  [default: all that are recurrent]")
@FOLDER
@JSON
def gradients(
    run: Path | None,
    data: tuple[str, ...],
    cell: str | None,
    hidden_size: int | None,
    num_layers: int | None,
    seed: int | None,
    steps: int | None,
    layer: str | None,
    show: Path | None,
    as_json: bool,
) -> None:
    """Show how far back through time a gradient reaches: of a trained RUN, on DATA or on what it was trained on.

    unrolled inspect gradients runs/my-run

    unrolled inspect gradients --cell rnn --hidden-size 64 --steps 50
    """
    if (run is None) == (cell is None):
        raise click.UsageError(f"expected either RUN or --cell, got {'neither' if run is None else 'both'}.")
    of_cell = {"--hidden-size": hidden_size, "--num-layers": num_layers, "--seed": seed}
    if run and (given := [flag for flag, value in of_cell.items() if value is not None]):
        raise click.UsageError(f"{given[0]} goes with --cell, got a RUN, which has its own. Leave it out.")
    if cell and layer:
        raise click.UsageError("--layer goes with a RUN, got --cell. Leave it out.")
    from unrolled.inspection import gradients as inspection
    from unrolled.progress import Progress
    from unrolled.tasks import reopened

    facts: dict[str, Any] = {}
    if run:
        with Progress().counting() as report:
            found, facts = reopened.gradients(run, data, steps=steps, layer=layer, report=report)
        facts |= {"data": list(data)}
        title = ", on ".join([str(run), *filter(None, [", ".join(data)])])
    else:
        sizes = {"num_layers": num_layers or 1, "steps": steps or 100, "seed": seed or 0}
        found = inspection.untrained(str(cell), hidden_size or 128, **sizes)
        title = f"untrained {cell}, hidden size {hidden_size or 128}"
    numbers = {**found.numbers(), **facts}
    shown: dict[str, Any] = {}
    for name, of_layer in numbers["layers"].items():
        shown[name] = {
            "left": f"{of_layer['left'][-1]:.2g} at {len(of_layer['left']) - 1} steps",
            "reach": of_layer["reach"] if of_layer["reach"] is not None else "all of them",
            "factor_per_step": "none" if of_layer["factor"] is None else f"{of_layer['factor']:.3g}",
            **{f"spectral_radius_{gate}": f"{radius:.3f}" for gate, radius in of_layer.get("spectral_radius", {}).items()},
        }
    if "clipped" in facts:
        shown["clipped"] = f"{facts['clipped']:.0%} of the steps reported"
    answer(inspection.draw(found, title), numbers, shown, name="gradients", show=show, run=run, as_json=as_json)
