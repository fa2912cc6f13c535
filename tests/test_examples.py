"""The example of a recurrent policy: both of its ways compute one thing, and it learns."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.tolerance import assert_same

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cartpole() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cartpole", ROOT / "examples" / "cartpole.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_rollout_in_one_call_is_the_loop_over_cells(cartpole: ModuleType) -> None:
    policy = cartpole.Policy(by_cells=True)
    x, state, resets = torch.randn(9, 5, 2), torch.randn(1, 5, cartpole.H), torch.rand(9, 5) < 0.3
    by_loop, gradient = policy(x, state, resets), {}
    by_loop.square().sum().backward()
    gradient = [getattr(policy.cell, name).grad for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    policy.cell = None
    whole = policy(x, state, resets)
    whole.square().sum().backward()
    assert_same(whole, by_loop)
    for ours, theirs in zip(policy.gru.parameters(), gradient, strict=True):
        assert_same(ours.grad / theirs.abs().max(), theirs / theirs.abs().max())


def test_acting_step_by_step_is_the_rollout(cartpole: ModuleType) -> None:
    policy, x = cartpole.Policy(), torch.randn(6, 5, 2)
    resets = torch.rand(6, 5) < 0.3
    with torch.no_grad():
        state, steps = torch.zeros(1, 5, cartpole.H), []
        for x_t, reset in zip(x, resets, strict=True):
            scores, state = policy.step(x_t, state * ~reset[:, None])
            steps.append(scores)
        assert_same(torch.stack(steps), policy(x, torch.zeros(1, 5, cartpole.H), resets))


def test_the_policy_learns_to_keep_the_pole_up(cartpole: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cartpole, "B", 32)
    lengths, _ = cartpole.train(40)
    assert sum(lengths[-5:]) > 1.3 * sum(lengths[:5])


def test_a_second_run_is_the_same(cartpole: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cartpole, "B", 8)
    assert cartpole.train(3)[0] == cartpole.train(3)[0]
