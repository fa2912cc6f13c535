"""The drawings of captioning's demo, and what it needs."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from unrolled import metrics, tasks
from unrolled.errors import DataError
from unrolled.tasks.captioning import shapes
from unrolled.tasks.captioning.config import Config


def test_every_sentence_is_of_a_drawing_and_none_to_measure_on_is_learned() -> None:
    everything = shapes.sentences()
    assert len(set(everything)) == len(everything) == 1152
    assert "a small red circle above a blue square" in everything
    learned, unseen = shapes.split(np.random.default_rng(0), 200)
    assert len(unseen) == 200
    assert set(learned) | set(unseen) == set(everything)
    assert not set(learned) & set(unseen)


@pytest.mark.parametrize("sentence", ["a red circle above a small blue square", "a small green triangle left of a red circle"])
def test_a_drawing_shows_the_colours_the_sizes_and_the_order_of_its_sentence(sentence: str) -> None:
    picture = np.asarray(shapes.draw(sentence, np.random.default_rng(3)), dtype=int)
    first, second = sentence.split(" above " if "above" in sentence else " left of ")
    channel = {"red": 0, "green": 1, "blue": 2}
    centres, areas = [], []
    for shape in (first, second):
        strongest = channel[shape.split()[-2]]
        mine = picture[..., strongest] - np.delete(picture, strongest, axis=-1).max(-1) > 50
        centres.append(np.argwhere(mine).mean(0))
        areas.append(mine.sum())
    axis = 0 if "above" in sentence else 1
    assert centres[0][axis] < centres[1][axis]
    assert (areas[0] < areas[1]) == ("small" in first)


def test_the_same_drawings_come_every_time(tmp_path: Path) -> None:
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        shapes.write(folder, shapes.sentences()[:5], np.random.default_rng(0))
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))])
        assert list(shapes.read(folder).values()) == shapes.sentences()[:5]
    assert digests[0] == digests[1]


def test_training_needs_no_package_of_scores_and_measuring_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pycocoevalcap" else find(name))
    assert not metrics.scores_installed()
    shapes.write(tmp_path / "data", shapes.sentences()[:40], np.random.default_rng(0))
    small = {"encoder": "small", "fine_tune_from": 1, "minimum_count": 1, "hidden_size": 8, "max_steps": 2, "batch_size": 4}
    outcome = tasks.train("captioning", tmp_path / "data", run=tmp_path / "run", **small)
    assert outcome.metrics.keys() == {"loss"}
    with pytest.raises(DataError, match=r"pip install 'unrolled\[captioning\]'"):
        tasks.load(tmp_path / "run").evaluate(str(tmp_path / "data"))
    again = {**small, "start": str(tmp_path / "run"), "objective": "self-critical"}
    with pytest.raises(DataError, match=r"pip install 'unrolled\[captioning\]'"):
        tasks.train("captioning", tmp_path / "data", run=tmp_path / "better", **again)


def test_a_cnn_of_fresh_weights_has_to_learn() -> None:
    with pytest.raises(ValueError, match="small has fresh weights"):
        Config(encoder="small")
    assert Config(encoder="small", fine_tune_from=1)
    assert Config(encoder="small", start="runs/one")
