from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unrolled
from unrolled.tasks.painting import generated


@pytest.fixture(scope="session")
def painter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A painter that has hardly learned anything."""
    run = tmp_path_factory.mktemp("painting") / "run"
    tiny = {"hidden_size": 16, "strokes": 2, "levels": 1, "batch_size": 2, "max_steps": 4, "save_every": 2}
    unrolled.train("painting", [], run=run, **tiny)
    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """60 x 40 pixels."""
    pixels = generated.shapes(np.random.default_rng(0), 60)[:40]
    Image.fromarray((pixels * 255).astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
