"""Small labelled data, and runs trained on it for a few steps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unrolled import tasks

SHORT = {
    "max_steps": 4,
    "batch_size": 4,
    "hidden_size": 6,
    "evaluate_every": 2,
    "save_every": 4,
    "sample_every": 3,
    "workers": 0,
}
WORDS = ["the", "dog", "runs", "a", "cat", "sleeps", "often"]
TAGS = {"the": "DET", "a": "DET", "dog": "NOUN", "cat": "NOUN", "runs": "VERB", "sleeps": "VERB", "often": "ADV"}


@pytest.fixture
def conllu(tmp_path: Path) -> Path:
    """Thirty sentences of one to seven words."""
    chance = np.random.default_rng(0)
    lines = []
    for number in range(30):
        lines.append(f"# sent_id = {number}")
        for place, word in enumerate(chance.choice(WORDS, 1 + number % 7), 1):
            lines.append(f"{place}\t{word}\t_\t{TAGS[word]}\t_\t_\t_\t_\t_\t_")
        lines.append("")
    (tmp_path / "words.conllu").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path / "words.conllu"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Twelve sequences of two sensors; of one, all steps have the same label."""
    chance = np.random.default_rng(0)
    lines = ["sequence,time,x,y,label"]
    for number in range(12):
        label = "up" if number % 2 else "down"
        for step in range(2 + number % 5):
            x, y = chance.normal(size=2) + (number % 2)
            lines.append(f"{number},{step / 10},{x:.4f},{y:.4f},{label}")
    (tmp_path / "sensors.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "sensors.csv"


@pytest.fixture
def chords(tmp_path: Path) -> Path:
    lines = ["sequence,x,label"]
    for number in range(8):
        lines += [f"{number},{step % 3},{'|'.join('CEG'[: step % 4])}" for step in range(3 + number % 4)]
    (tmp_path / "chords.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "chords.csv"


@pytest.fixture
def trained(tmp_path: Path) -> Callable:
    """Train for a few steps on a file; the run."""

    def train(data: Path, **settings):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        tasks.train("labelling", data, run=folder, **{**SHORT, **settings})
        return tasks.load(folder)

    return train
