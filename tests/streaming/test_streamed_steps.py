"""Steps of the streaming engine against plain cells in float64, in every precision and variant that this machine runs."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.streaming.reference import CELLS, SIZES, assert_near, exact, parts, random_state, variants
from tests.tolerance import STREAMING
from torch import Tensor, nn
from torch.nn.functional import linear

from unrolled import streaming
from unrolled.streaming import Streamer


@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_those_of_the_cell(cell: str, sizes: tuple, precision: str, isa: str) -> None:
    I, H, L, B = sizes
    layers = CELLS[cell](I, H, L)
    x, state = torch.randn(6, B, I), random_state(layers, B)
    expected, last = exact(layers, x, state)
    streamer = Streamer(layers, precision=precision, isa=isa)
    assert streamer.isa == isa
    streamer.set_state(state)
    outputs = torch.stack([streamer.step(x_t) for x_t in x])
    assert_near(outputs, expected, STREAMING[precision])
    assert_near(streamer.state, last, STREAMING[precision])
    for x_t, h_t in zip(x, outputs, strict=True):  # handing the state in and out gives the same bits
        out, state = streamer.advance(x_t, state)
        assert torch.equal(out, h_t)
    for ours, kept in zip(parts(state), parts(streamer.state), strict=True):
        assert torch.equal(ours, kept)


def as_bf16(t: Tensor) -> Tensor:
    return t.bfloat16().double()


def as_int8(t: Tensor) -> Tensor:
    """Each row at its own scale, as the engine rounds weights and inputs."""
    scale = t.abs().amax(-1, keepdim=True).float()
    return torch.where(scale == 0, 0, (t.float() * (127 / scale)).round().double() * (scale.double() / 127))


@pytest.mark.parametrize(("precision", "isa"), [v for v in variants() if v[0] != "fp32"])
@pytest.mark.parametrize("cell", CELLS)
def test_reduced_precision_rounds_what_it_says_and_nothing_else(cell: str, precision: str, isa: str) -> None:
    layers = CELLS[cell](37, 45)
    rounded = as_bf16 if precision == "bf16" else as_int8
    x, state = torch.randn(3, 37), random_state(layers, 3)
    streamer = Streamer(layers, precision=precision, isa=isa)
    reference = copy.deepcopy(layers).double()
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(reference, name).copy_(rounded(getattr(layers, name)))
    h = parts(state)[0]
    rounded_state = (rounded(h), state[1]) if cell == "LSTM" else rounded(h)
    expected, _ = exact(reference, rounded(x)[None], rounded_state)
    if cell == "GRU":  # whose z h takes the state as it is
        z = (linear(rounded(x), reference.weight_ih_l0, reference.bias_ih_l0)
             + linear(rounded(h[0]), reference.weight_hh_l0, reference.bias_hh_l0)).chunk(3, -1)[1].sigmoid()  # fmt: skip
        expected = expected + z.detach() * (h[0] - rounded(h[0]))
    assert_near(streamer.advance(x, state)[0], expected[0], 1e-5)


@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_a_batch_is_the_same_alone(cell: str, precision: str, isa: str) -> None:
    layers = CELLS[cell](9, 21, 2)
    x, state = torch.randn(7, 9), random_state(layers, 7)
    streamer = Streamer(layers, precision=precision, isa=isa)
    together, last = streamer.advance(x, state)
    for b in range(7):
        one = tuple(part[:, b : b + 1] for part in parts(state))
        alone, last_alone = streamer.advance(x[b : b + 1], one if cell == "LSTM" else one[0])
        assert_near(alone, together[b : b + 1], 1e-6)
        assert_near(tuple(p for p in parts(last_alone)), tuple(p[:, b : b + 1] for p in parts(last)), 1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_without_biases(cell: str) -> None:
    layers = CELLS[cell](4, 18, 2, bias=False)
    x = torch.randn(3, 1, 4)
    streamer = Streamer(layers)
    assert_near(torch.stack([streamer.step(x_t) for x_t in x]), exact(layers, x)[0], 1e-5)


def test_no_state_is_zeros_and_inputs_may_be_strided_or_of_another_precision() -> None:
    layers = nn.GRU(6, 8)
    streamer = Streamer(layers)
    x = torch.randn(6, 5).T
    expected = exact(layers, x[None])[0][0]
    for given in (x, x.double()):
        assert_near(streamer.advance(given)[0], expected, 1e-5)
    assert streamer.advance(torch.zeros(0, 6))[0].shape == (0, 8)
    streamer.set_state(batch=5)
    assert_near(streamer.step(x), expected, 1e-5)
    wide = torch.randn(1, 5, 16)[..., ::2]
    assert_near(streamer.advance(x, wide)[0], exact(layers, x[None], wide)[0][0], 1e-5)


def test_weights_of_half_precision_are_taken_exactly() -> None:
    layers = nn.LSTM(5, 7).bfloat16()
    x = torch.randn(1, 2, 5)
    assert_near(Streamer(layers).advance(x[0])[0], exact(layers, x)[0][0], 1e-5)


@pytest.mark.parametrize("precision", streaming.PRECISIONS)
def test_large_and_tiny_inputs(precision: str) -> None:
    layers = nn.RNN(8, 16, nonlinearity="relu")
    for size in (1e-35, 1e-6, 1e6):
        x = torch.randn(1, 1, 8) * size
        expected = exact(layers, x)[0][0]
        actual = Streamer(layers, precision=precision).advance(x[0])[0]
        assert_near(actual / max(size, 1), expected / max(size, 1), STREAMING[precision])


def test_two_threads_may_share_a_streamer() -> None:
    layers = nn.LSTM(16, 48, 2)
    streamer = Streamer(layers)
    inputs = torch.randn(4, 300, 1, 16)

    def run(x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x:
            out, state = streamer.advance(x_t, state)
            outputs.append(out)
        return torch.stack(outputs)

    alone = [run(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for together, expected in zip(pool.map(run, inputs), alone, strict=True):
            assert torch.equal(together, expected)


@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_stay_visible(value: float, precision: str, isa: str) -> None:
    layers = nn.RNN(20, 20, nonlinearity="relu")
    x = torch.randn(2, 20)
    broken = x.clone()
    broken[0, 3] = value
    streamer = Streamer(layers, precision=precision, isa=isa)
    out = streamer.advance(broken)[0]
    assert not out[0].isfinite().all()
    assert_near(out[1:], streamer.advance(x)[0][1:], 1e-6)  # the other row is untouched
    with torch.no_grad():
        layers.weight_hh_l0[5, 0] = value
    out = Streamer(layers, precision=precision, isa=isa).advance(x, torch.ones(1, 2, 20))[0]
    assert not out[:, 5].isfinite().any()
    assert out[:, :5].isfinite().all()
