"""Weights that change between forward and backward: gradients are those of the numbers that were multiplied with, or an error.

What is written into the weights' own memory past PyTorch (`.data.copy_`, NumPy) backward cannot tell, here as in torch.nn.
"""

import copy

import pytest
import torch
from tests.layers.twins import KINDS, OPTIONS, B, H, I, Seeing, T
from tests.tolerance import assert_same

import unrolled
from unrolled.kernels.linear import Linear

CELLS = {"LSTMCell": unrolled.LSTMCell, "GRUCell": unrolled.GRUCell, "RNNCell": unrolled.RNNCell}


def two_steps(cell, x):
    state = None
    for x_t in x[:2]:
        state = cell(x_t, state)
    return state[0] if isinstance(state, tuple) else state


def replace(module) -> None:
    for name, parameter in module.named_parameters():
        if not name.startswith("gain"):  # of which, as of torch.nn.LayerNorm's, backward reads those of now
            parameter.data = torch.full_like(parameter, 0.3)


def gradients(loss, module, x, twice: bool) -> list[torch.Tensor]:
    """Of x and the weights: the first ones, or those of their squares."""
    of = [x, *module.parameters()]
    found = torch.autograd.grad(loss, of, create_graph=twice)
    return list(torch.autograd.grad([g.square().sum() for g in found], of)) if twice else list(found)


def assert_replaced_weights_change_nothing(module, call, twice: bool = False) -> None:
    x, before = torch.randn(T, B, I, requires_grad=True), copy.deepcopy(module)
    expected = gradients(call(before, x).square().sum(), before, x, twice)
    loss = call(module, x).square().sum()
    replace(module)
    for found, wanted in zip(gradients(loss, module, x, twice), expected, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_other_weights_in_their_place_change_no_gradient(kind: str, options: dict) -> None:
    if kind == "projected" and options == {"save": "outputs"}:
        pytest.skip("activation checkpointing is for the plain cells")
    layer, _, extra = KINDS[kind]
    assert_replaced_weights_change_nothing(layer(I, H, **extra, **options).eval(), lambda m, x: m(x)[0])


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=str)
def test_nor_any_second_derivative(options: dict) -> None:
    assert_replaced_weights_change_nothing(unrolled.GRU(I, H, **options), lambda m, x: m(x)[0], twice=True)


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}], ids=str)
def test_nor_who_watches(options: dict) -> None:
    def call(module, x):
        with Seeing():
            return module(x)[0]

    assert_replaced_weights_change_nothing(unrolled.LSTM(I, H, **options), call)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("twice", [False, True])
def test_nor_that_of_cells(kind: str, twice: bool) -> None:
    assert_replaced_weights_change_nothing(CELLS[kind](I, 256 if kind == "RNNCell" else H), two_steps, twice)


def test_steps_before_and_after_have_each_their_own_weights() -> None:
    cell, x, found = unrolled.GRUCell(I, H), torch.randn(T, B, I), []
    theirs = torch.nn.GRUCell(I, H)
    theirs.load_state_dict(cell.state_dict())
    for each in (cell, theirs):
        h = each(x[0])
        replace(each)
        found.append(torch.autograd.grad(each(x[1], h).sum(), list(each.parameters())))
    for ours, wanted in zip(*found, strict=True):
        assert_same(ours, wanted)


def test_nor_that_of_a_product() -> None:
    module, x = Linear(64, 64), torch.randn(512, 64, requires_grad=True)
    loss, weight = module(x).sum(), module.weight.detach().clone()
    replace(module)
    (dx,) = torch.autograd.grad(loss, x)
    assert_same(dx, weight.sum(0).expand(512, 64))


@pytest.mark.parametrize("make", [unrolled.GRU, *CELLS.values()])
def test_weights_written_to_in_place_are_refused(make) -> None:
    module, x = make(I, 256), torch.randn(B, I)
    output = module(x)[0]
    with torch.no_grad():
        module.get_parameter("weight_hh" if "Cell" in make.__name__ else "weight_hh_l0").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
