"""The adding problem and copy memory: their data, their baselines, and how cells are measured on them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.data import synthetic
from unrolled.errors import ConfigError
from unrolled.inspection import memory_tests

EXACT = {"seconds": math.inf, "iterations": 200, "hidden_size": 8}


def batch(make: Callable, steps: int, size: int) -> synthetic.Batch:
    return make(steps, size, torch.Generator().manual_seed(0))


def test_one_number_in_each_half_is_marked_and_the_target_is_their_sum() -> None:
    x, y = batch(synthetic.adding, 7, 500)
    assert x.shape == (7, 500, 2)
    assert x[:3, :, 1].sum(0).eq(1).all()
    assert x[3:, :, 1].sum(0).eq(1).all()
    assert x[..., 1].sum(1).gt(0).all(), "every step is marked somewhere"
    assert_same((x[..., 0] * x[..., 1]).sum(0), y)
    assert 0 <= float(x.min()) < float(x.max()) <= 1


def test_copy_memory_asks_for_the_symbols_after_the_sign() -> None:
    x, y = batch(synthetic.copy_memory, 5, 40)
    assert x.shape == y.shape == (25, 40)
    assert x[:10].lt(synthetic.SYMBOLS).all()
    assert x[10:14].eq(synthetic.BLANK).all()
    assert x[14].eq(synthetic.GO).all()
    assert x[15:].eq(synthetic.BLANK).all()
    assert y[:15].eq(synthetic.BLANK).all()
    assert y[15:].equal(x[:10])
    assert len(x[:10].unique()) == synthetic.SYMBOLS


def test_the_baselines_are_what_a_guess_has() -> None:
    assert synthetic.adding_baseline() == pytest.approx(1 / 6, abs=0)
    sums = batch(synthetic.adding, 2, 400_000).targets.double()
    assert float((sums - 1).square().mean()) == pytest.approx(synthetic.adding_baseline(), rel=0.01)
    for steps in (1, 100, 1000):
        target = batch(synthetic.copy_memory, steps, 1).targets[:, 0]
        odds = torch.full((steps + 20, synthetic.CLASSES), -math.inf, dtype=torch.float64)
        odds[:-10, synthetic.BLANK] = 0
        odds[-10:, : synthetic.SYMBOLS] = 0  # as likely one as the other
        guess = torch.nn.functional.cross_entropy(odds, target)
        assert_same(guess, torch.tensor(10 * math.log(8) / (steps + 20), dtype=torch.float64))
        assert_same(guess, torch.tensor(synthetic.copy_baseline(steps), dtype=torch.float64))


def test_lengths_that_a_test_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        batch(synthetic.adding, 1, 1)
    with pytest.raises(ConfigError, match="adding: expected a length of at least 2, got 1"):
        next(memory_tests.measure(["gru"], adding=[1], copy=[]))
    with pytest.raises(ConfigError, match="cell: expected one of rnn, lstm, gru, got 'mlp'"):
        next(memory_tests.measure(["mlp"]))
    with pytest.raises(ConfigError, match="got none"):
        next(memory_tests.measure(["gru"], adding=[], copy=[]))


def test_a_short_test_is_solved_and_training_ends_there() -> None:
    [trial] = memory_tests.measure(["gru"], adding=[2], copy=[], hidden_size=16, iterations=1500, seconds=math.inf)
    assert trial.solved_at == trial.losses[-1][0] < 1500
    assert trial.loss < memory_tests.SOLVED < 0.9 * trial.baseline


def test_a_test_that_is_not_solved_ends_with_its_iterations_and_comes_out_the_same_again() -> None:
    first, second = (list(memory_tests.measure(["rnn", "lstm"], adding=[50], copy=[], **EXACT)) for _ in range(2))
    assert [one.losses for one in first] == [one.losses for one in second]
    assert [[iteration for iteration, _ in one.losses] for one in first] == [[100, 200]] * 2
    assert [one.solved_at for one in first] == [None, None]
    assert first[0].losses != first[1].losses


def test_time_that_is_up_ends_every_trial_after_a_hundred_iterations() -> None:
    trials = list(memory_tests.measure(["rnn", "gru"], adding=[4], copy=[3], hidden_size=4, seconds=1e-6))
    assert [(one.test, one.steps, one.cell) for one in trials] == [
        ("copy", 3, "rnn"), ("copy", 3, "gru"), ("adding", 4, "rnn"), ("adding", 4, "gru"),
    ]  # fmt: skip
    assert [len(one.losses) for one in trials] == [1] * 4


def test_the_command_prints_and_draws_what_was_measured(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--iterations", "100", "--hidden-size", "4", "--adding", "5", "--copy", "3", "--cell", "rnn", "--cell", "lstm"]
    code, out, err = command("inspect", "memory", *small, "--show", tmp_path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found["trials"]) == ["copy 3 rnn", "copy 3 lstm", "adding 5 rnn", "adding 5 lstm"]
    assert json.loads((tmp_path / "memory.json").read_text()).items() <= found.items()
    for name in ("memory.png", "memory.svg"):
        assert str(tmp_path / name) in found.values()
        assert (tmp_path / name).stat().st_size > 5000
    code, out, _ = command("inspect", "memory", *small, "--show", tmp_path)
    assert code == 0
    assert out.startswith(found["sentence"])
    assert "no better than a guess" in out
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(memory_tests, "measure", lambda *_, **__: pytest.fail("trained before it knew where pictures go"))
    code, _, err = command("inspect", "memory", "--show", tmp_path / "file" / "pictures")
    assert code == 2
    assert err.startswith(f"error: {tmp_path / 'file' / 'pictures'}: cannot make this folder")
    code, _, err = command("inspect", "memory", "--cell", "cnn")
    assert code == 2
    assert "'cnn'" in err


def test_ctrl_c_shows_what_was_measured_by_then(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn, calls = memory_tests._learn, []

    def stopped_in_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*arguments)

    monkeypatch.setattr(memory_tests, "_learn", stopped_in_the_third)
    small = ["--iterations", "100", "--hidden-size", "4", "--adding", "5", "--adding", "7", "--show", tmp_path, "--json"]
    code, out, err = command("inspect", "memory", *small)
    assert code == 130
    assert err == "Interrupted: shown are the 2 of 6 trials that were over.\n"
    assert list(json.loads(out)["trials"]) == ["adding 5 rnn", "adding 5 gru"]
    assert list(json.loads((tmp_path / "memory.json").read_text())["trials"]) == ["adding 5 rnn", "adding 5 gru"]
    calls[:] = [(), ()]
    code, out, err = command("inspect", "memory", *small)
    assert (code, out, err.strip()) == (130, "", "error: interrupted")
