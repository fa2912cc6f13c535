"""`unrolled inspect sweep`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from unrolled import flags
from unrolled.inspect_commands.answer import FOLDER, JSON, answer


@click.command()
@click.option("--hidden-size", default=64, show_default=True, type=click.IntRange(1, 1024), help="Width of the hidden state.")
@click.option("--steps", default=100, show_default=True, type=click.IntRange(10, 10_000), help="Steps to look back.")
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed of weights and noise.")
@FOLDER
@JSON
def sweep(hidden_size: int, steps: int, seed: int, show: Path | None, as_json: bool) -> None:
    """Where gradients vanish and explode: a vanilla RNN by spectral radius and steps, and after each remedy.

    unrolled inspect sweep
    """
    from unrolled.inspection import sweep as inspection

    found = inspection.run(hidden_size, steps, seed=seed)
    shown = {"factor per step, by radius": "  ".join(f"{radius:>5g}" for radius in inspection.RADII)}
    for name, points in found.points.items():
        shown[name] = "  ".join(" none" if point.factor is None else f"{point.factor:.3f}" for point in points)
    answer(inspection.draw(found), found.numbers(), shown, name="sweep", show=show, as_json=as_json)
