from pathlib import Path

import pytest
from tests.tasks.translation.tiny import TINY, write_numbers

from unrolled import tasks


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """English numbers and German ones, in two files."""
    return write_numbers(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session")
def translator(numbers: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, shared by tests that only read it."""
    folder = tmp_path_factory.mktemp("translator") / "run"
    settings = {"max_steps": 150, "evaluate_every": 75, "save_every": 75, "learning_rate": 1e-2, "vocabulary": "separate"}
    tasks.train("translation", list(numbers), run=folder, **{**TINY, **settings, "label_smoothing": 0.0})
    return folder
