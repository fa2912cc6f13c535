"""Small images, and a DRAW trained on them for a few steps."""

from pathlib import Path

import numpy as np
import pytest

from unrolled import tasks

TINY = {
    "steps": 3,
    "hidden_size": 6,
    "latent_size": 4,
    "read_size": 3,
    "write_size": 3,
    "batch_size": 4,
    "max_steps": 4,
    "evaluate_every": 2,
    "save_every": 4,
    "sample_every": 3,
    "workers": 0,
}


def bars(count: int, height: int = 7, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (N, height, width) of a bright bar, lying in class 0 and upright in class 1."""
    chance = np.random.default_rng(0)
    images, labels = chance.integers(0, 60, (count, height, width), dtype=np.uint8), np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        if label:
            image[:, chance.integers(width)] = 240
        else:
            image[chance.integers(height)] = 240
    return images, labels


@pytest.fixture(scope="session")
def bar_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bars") / "bars.npz"
    images, labels = bars(40)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="session")
def draw_run(bar_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run that is told the class, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("draw") / "run"
    tasks.train("drawing", bar_file, run=folder, conditional=True, **TINY)
    return folder
