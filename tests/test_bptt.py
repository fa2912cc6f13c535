"""Cutting a sequence changes how far gradients go, and nothing else."""

import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled import bptt

T, B, I, H = 11, 3, 4, 5


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(T, B, I, dtype=torch.float64)


@pytest.fixture(params=["RNN", "LSTM", "GRU"])
def layer(request: pytest.FixtureRequest) -> torch.nn.Module:
    return getattr(unrolled, request.param)(I, H, num_layers=2, dtype=torch.float64)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 3), (4, 7), (3, 100), (5, 2), (2, 9), (20, 20)])
def test_carried_chunks_give_the_forward_pass_of_one_long_sequence(layer, x, k1: int, k2: int) -> None:
    whole, _ = layer(x)
    seen = torch.zeros(T, dtype=torch.bool)
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=k2):
        assert_same(outputs, whole[steps])
        assert outputs.requires_grad
        seen[steps] = True
    if k2 >= k1:
        assert seen.all()


@pytest.mark.parametrize("k1", [1, 3, 4, T])
def test_with_k2_the_whole_length_the_gradient_is_the_full_one(layer, x, k1: int) -> None:
    scale = torch.randn(T, B, H, dtype=torch.float64)
    expected = torch.autograd.grad((layer(x)[0] * scale).sum(), list(layer.parameters()))
    layer.zero_grad()
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=T):
        (outputs * scale[steps]).sum().backward()
    for parameter, want in zip(layer.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert_same(parameter.grad, want)


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (2, 5), (4, 2)])
def test_the_gradient_goes_back_k2_steps_and_no_further(layer, x, k1: int, k2: int) -> None:
    x.requires_grad_()
    for steps, outputs, _ in bptt.truncated(layer, x, k1=k1, k2=k2):
        (grad,) = torch.autograd.grad(outputs[-1].sum(), x)
        reached = grad.abs().sum(dim=(1, 2)).nonzero().flatten()
        assert reached.min() == max(0, steps.stop - k2)
        assert reached.max() == steps.stop - 1


def test_state_of_one_window_starts_the_next(layer, x) -> None:
    outputs, state = bptt.window(layer, x[:6], None, advance=4)
    assert_same(outputs, layer(x[:6])[0])
    continued, _ = bptt.window(layer, x[4:], state, advance=0)
    assert_same(continued, layer(x)[0][4:])


def test_batch_first_is_cut_along_its_own_axis(x) -> None:
    layer = unrolled.GRU(I, H, batch_first=True, dtype=torch.float64)
    x = x.transpose(0, 1)
    pieces = [outputs for _, outputs, _ in bptt.truncated(layer, x, k1=4, k2=6, dim=1)]
    assert_same(torch.cat(pieces, dim=1), layer(x)[0])


def test_impossible_cuts_are_refused(layer, x) -> None:
    with pytest.raises(ValueError, match="k1=0"):
        next(bptt.truncated(layer, x, k1=0))
    with pytest.raises(ValueError, match="window's 11 steps, got 12"):
        bptt.window(layer, x, None, advance=12)
