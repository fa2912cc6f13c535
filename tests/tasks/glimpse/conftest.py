"""Small images with a bright square, and a network trained to look at them for a few steps."""

from pathlib import Path

import numpy as np
import pytest

from unrolled import tasks

TINY = {
    "glimpses": 3,
    "glimpse_size": 4,
    "scales": 2,
    "glimpse_features": 5,
    "hidden_size": 6,
    "batch_size": 4,
    "max_steps": 4,
    "evaluate_every": 2,
    "save_every": 4,
    "sample_every": 3,
    "workers": 0,
}


def squares(count: int, height: int = 9, width: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (N, height, width) of a square, dark in class 0 and bright in class 1."""
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 30, (count, height, width), dtype=np.uint8), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = chance.integers(height - 2), chance.integers(width - 2)
        image[row : row + 3, column : column + 3] = 240 if label else 120
    return images, labels


@pytest.fixture(scope="session")
def square_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("squares") / "squares.npz"
    images, labels = squares(40)
    np.savez(path, images=images, labels=np.where(labels, "bright", "dark"))
    return path


@pytest.fixture(scope="session")
def look_run(square_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run on a canvas of 12 x 12, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("look") / "run"
    tasks.train("glimpse", square_file, run=folder, canvas=12, clutter=2, clutter_size=3, distort=0.05, **TINY)
    return folder
