"""Translation in two processes: pairs shared out, learning and measuring."""

from pathlib import Path

import pytest
from tests.launched import launch
from tests.tasks.translation.tiny import TINY
from tests.tolerance import assert_same

from unrolled import checkpoint, tasks
from unrolled.task import Outcome

# Targets are of one to three words: equal shares of a batch's pairs are unequal shares of its tokens.
SETTINGS = TINY | {"batch_size": 7, "dropout": 0.0, "vocabulary": "separate", "max_steps": 6, "evaluate_every": 3}


def learn(numbers: tuple[str, str], run: Path, settings: dict) -> Outcome:
    return tasks.train("translation", list(numbers), run=run, **settings)


@pytest.mark.parametrize("more", [{}, {"attention": "additive", "cell": "gru"}], ids=["between", "additive"])
def test_two_processes_learn_what_one_learns(numbers: tuple[str, str], tmp_path: Path, more: dict) -> None:
    one = learn(numbers, tmp_path / "one", SETTINGS | more)
    first, second = launch(learn, numbers, tmp_path / "two", SETTINGS | more)
    assert first == second
    assert first.metrics == pytest.approx(one.metrics, rel=1e-4)
    expected, actual = (checkpoint.read_tensors(tmp_path / run / checkpoint.MODEL)[0] for run in ("one", "two"))
    for name, tensor in expected.items():
        assert_same(actual[name], tensor)
    for ours, theirs in zip(*(checkpoint.read_metrics(tmp_path / run) for run in ("one", "two")), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
