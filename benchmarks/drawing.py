"""What the amount of data costs: `python -m benchmarks.drawing mnist.npz` prints nats per image by training images, as a table.

The last --held-back images of the file are never trained on, and all models are measured on them, black and white by the seed
that is the same in every run. Each model is trained by the recipe on the first N images, a part of which chooses its weights.
Runs stay in --runs, so that a table that was broken off goes on with the next row.

    python -m benchmarks.drawing mnist.npz --recipe recipes/mnist_draw.toml
    python -m benchmarks.drawing mnist.npz --recipe recipes/mnist_diagonal.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import unrolled
from unrolled.data.labelled_images import read
from unrolled.tasks import resume

SAMPLES = 50


def trained(folder: Path, data: Path, recipe: Path, settings: dict[str, Any]) -> Any:
    """The run in the folder: trained before, gone on with, or begun."""
    if folder.exists():
        resume(folder)
    else:
        unrolled.train("drawing", data, run=folder, recipe=recipe, **settings)
    return unrolled.load(folder, samples=SAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="images in a form that unrolled train drawing takes")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/mnist_draw.toml"))
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 4000, 6000], help="how many to train on, in each row")
    parser.add_argument("--held-back", type=int, default=2000, help="images at the end to measure on")
    parser.add_argument("--max-steps", type=int, help="in place of the recipe's")
    parser.add_argument("--max-seconds", type=float, help="of training for each row, one after another")
    parser.add_argument("--runs", type=Path, default=Path("runs/drawing-table"))
    given = parser.parse_args()
    images, labels, _ = read([given.data])
    if max(given.images) + given.held_back > len(images):
        parser.error(f"{given.data} has {len(images):,} images, which are too few for that many to train on and to hold back")
    given.runs.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name in ("max_steps", "max_seconds") if (value := getattr(given, name)) is not None}
    held = given.runs / "held-back.npz"
    np.savez_compressed(held, images=images[-given.held_back :, 0], labels=labels[-given.held_back :])
    print("| images to train on | nats per image | bits per dimension | importance-weighted, nats |", flush=True)
    print("|---|---|---|---|", flush=True)
    for count in given.images:
        data = given.runs / f"{count}.npz"
        np.savez_compressed(data, images=images[:count, 0], labels=labels[:count])
        run = trained(given.runs / f"{given.recipe.stem}-{count}", data, given.recipe, settings)
        found = run.evaluate(held)
        weighted = found.get("importance_weighted")
        tighter = "" if weighted is None else f"{weighted:.2f} ({SAMPLES} samples)"
        print(f"| {count:,} | {found['loss']:.2f} | {found['bits_per_dimension']:.4f} | {tighter} |", flush=True)


if __name__ == "__main__":
    main()
