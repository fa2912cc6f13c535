"""Labelling in two processes: sequences shared out, learning and measuring."""

from pathlib import Path

import numpy as np
import pytest
from tests.launched import launch
from tests.tolerance import assert_same

from unrolled import checkpoint, tasks
from unrolled.task import Outcome

# Batches are of unequal lengths: equal shares of their sequences are unequal shares of their steps.
SETTINGS = {
    "embedding_size": 8,
    "character_size": 4,
    "hidden_size": 8,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "batch_size": 7,
    "max_steps": 6,
    "warmup_steps": 2,
    "evaluate_every": 3,
    "sample_every": 0,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of one to eight numbers, each tagged as even or odd."""
    chance = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("words") / "numbers.conll"
    sentences = [[f"{n}\t{'odd' if n % 2 else 'even'}" for n in chance.integers(20, size=1 + k % 8)] for k in range(40)]
    path.write_text("".join("\n".join(lines) + "\n\n" for lines in sentences))
    return path


def learn(data: Path, run: Path, settings: dict) -> Outcome:
    return tasks.train("labelling", data, run=run, **settings)


@pytest.mark.parametrize("more", [{}, {"crf": True}], ids=["softmax", "crf"])
def test_two_processes_learn_what_one_learns(words: Path, tmp_path: Path, more: dict) -> None:
    one = learn(words, tmp_path / "one", SETTINGS | more)
    first, second = launch(learn, words, tmp_path / "two", SETTINGS | more)
    assert first == second
    assert first.metrics == pytest.approx(one.metrics, rel=1e-4)
    expected, actual = (checkpoint.read_tensors(tmp_path / run / checkpoint.MODEL)[0] for run in ("one", "two"))
    for name, tensor in expected.items():
        assert_same(actual[name], tensor)
    for ours, theirs in zip(*(checkpoint.read_metrics(tmp_path / run) for run in ("one", "two")), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
