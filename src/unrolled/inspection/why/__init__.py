"""Why recurrent networks are hard, and what each remedy does: the figures of docs/why.md, each from a measurement.

A file for each figure, with `measure`, which returns the numbers, and `draw`, which makes a figure of them.
"""

from __future__ import annotations

from pathlib import Path

from unrolled.inspection import figures
from unrolled.inspection.why import one_matrix, repeated_products, time_and_depth, truncation, two_gradients, uninterrupted_path

FIGURES = {
    "one-matrix": one_matrix,
    "two-gradients": two_gradients,
    "repeated-products": repeated_products,
    "uninterrupted-path": uninterrupted_path,
    "time-and-depth": time_and_depth,
    "truncation": truncation,
}
"""In the order in which the page tells the story."""


def make(folder: Path, seed: int = 0) -> list[Path]:
    """Measure and write every figure as PNG, SVG and JSON; return the paths. It takes 20 seconds on one core.

    Raises:
        RunError: the folder or a file in it cannot be written.
    """
    paths: list[Path] = []
    for name, one in FIGURES.items():
        numbers = one.measure(seed=seed)
        paths += figures.write(one.draw(numbers), numbers, folder, name)
    return paths
