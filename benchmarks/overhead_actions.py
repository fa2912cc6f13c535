"""Labelling the frames of a thermal camera, leaving one sequence out at a time: with recurrence, without it, and the majority.

    python -m benchmarks.overhead_actions THERMAL [--recipe recipes/overhead_actions.toml] [--max-steps 300] [--seeds 1]

THERMAL is a folder of .npz files, each a sequence. The recipe is trained on all but one, and measured once, at its end, on that
one; then the same with `cell = none`, which is the recipe's CNN on each frame alone. Nothing is chosen by the sequence that is
left out. Printed is a Markdown table, a row for each sequence, and below it the mean over sequences and its standard deviation;
of the differences to the recipe too, since sequences differ more from each other than models do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from unrolled import tasks
from unrolled.label_metrics import accuracy, macro_f1

RECURRENT, ALONE, MAJORITY = "recurrence", "CNN alone", "majority"
UNLABELLED = "none"
FIGURES = ("accuracy", "macro_f1")


def measured(recipe: Path, learned: list[Path], left_out: Path, **settings: object) -> dict[str, float]:
    """Figures of the recipe on the sequence that is left out."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        tasks.train("labelling", learned, run=run, recipe=recipe, validation_fraction=0, **settings)
        return tasks.load(run, task="labelling").evaluate(left_out)


def majority(learned: list[Path], left_out: Path) -> dict[str, float]:
    """Figures of saying at every frame what most frames of the others are."""
    said = Counter(label for path in learned for label in labels_of(path)).most_common(1)[0][0]
    truth = labels_of(left_out)
    return {"accuracy": accuracy(truth, [said] * len(truth)), "macro_f1": macro_f1(truth, [said] * len(truth))}


def labels_of(path: Path) -> list[str]:
    """Of the frames that have one."""
    return [label for label in np.load(path)["label"].tolist() if label != UNLABELLED]


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave one sequence out.")
    parser.add_argument("thermal", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parents[1] / "recipes" / "overhead_actions.toml")
    parser.add_argument("--max-steps", type=int, help="By default the recipe's.")
    parser.add_argument("--seeds", type=int, default=1, help="Models for each sequence, whose figures are averaged.")
    given = parser.parse_args()
    paths = sorted(given.thermal.glob("*.npz"))
    settings = {} if given.max_steps is None else {"max_steps": given.max_steps, "warmup_steps": given.max_steps // 10}
    rows: list[dict[str, dict[str, float]]] = []
    print("| left out | " + " | ".join((RECURRENT, ALONE, MAJORITY)) + " | edit | F1@10 | F1@25 | F1@50 |\n|---|" + "---|" * 7)
    for path in paths:
        learned = [other for other in paths if other != path]
        row: dict[str, dict[str, float]] = {}
        for name, cell in ((RECURRENT, {}), (ALONE, {"cell": "none"})):
            several = [measured(given.recipe, learned, path, seed=seed, **settings, **cell) for seed in range(given.seeds)]
            row[name] = {key: mean(one[key] for one in several) for key in (*FIGURES, "edit", "f1_10", "f1_25", "f1_50")}
        row[MAJORITY] = majority(learned, path)
        rows.append(row)
        cells = [" / ".join(f"{row[name][key]:.3f}" for key in FIGURES) for name in (RECURRENT, ALONE, MAJORITY)]
        segments = [f"{row[RECURRENT][key]:.3f}" for key in ("edit", "f1_10", "f1_25", "f1_50")]
        print(f"| {path.stem} | {' | '.join(cells + segments)} |", flush=True)
    print()
    for key in FIGURES:
        for name in (RECURRENT, ALONE, MAJORITY):
            values = [row[name][key] for row in rows]
            line = f"{key} of {name}: {mean(values):.3f} ± {stdev(values):.3f}"
            if name != RECURRENT:
                margins = [row[RECURRENT][key] - row[name][key] for row in rows]
                better = sum(margin > 0 for margin in margins)
                line += f"; recurrence is {mean(margins):+.3f} ± {stdev(margins):.3f}, better in {better} of {len(rows)}"
            print(line)


if __name__ == "__main__":
    main()
