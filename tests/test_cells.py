"""The hand-derived backward steps against autograd, in float64, and the cells against torch's own."""

import pytest
import torch
from torch import nn

from tolerance import assert_same
from unrolled import cells
from unrolled.cells import Weights

B, I, H = 3, 5, 7

WITHOUT_C = {
    "rnn_tanh": (cells.rnn_tanh_cell, cells.rnn_tanh_backward, 1),
    "rnn_relu": (cells.rnn_relu_cell, cells.rnn_relu_backward, 1),
    "gru": (cells.gru_cell, cells.gru_backward, 3),
}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def weights(gates: int, bias: bool) -> Weights:
    return Weights(draw(gates * H, I), draw(gates * H, H), *((draw(gates * H), draw(gates * H)) if bias else ()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", WITHOUT_C)
def test_backward_by_hand_is_autograd(name: str, bias: bool) -> None:
    cell, backward, gates = WITHOUT_C[name]
    x, h, w = draw(B, I), draw(B, H), weights(gates, bias)
    h_t = cell(x, h, w)
    from_loss, from_next = torch.randn_like(h_t), torch.randn_like(h_t)
    inputs = [x, h, *(part for part in w if part is not None)]
    expected = torch.autograd.grad(h_t, inputs, from_loss + from_next)
    dx, dh, dw = backward(from_loss, from_next, x, h, w)
    for got, want in zip([dx, dh, *(part for part in dw if part is not None)], expected, strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("bias", [True, False])
def test_lstm_backward_by_hand_is_autograd(bias: bool) -> None:
    x, h, c, w = draw(B, I), draw(B, H), draw(B, H), weights(4, bias)
    h_t, c_t = cells.lstm_cell(x, h, c, w)
    from_loss, from_next, dc_next = (torch.randn_like(h_t) for _ in range(3))
    inputs = [x, h, c, *(part for part in w if part is not None)]
    expected = torch.autograd.grad([h_t, c_t], inputs, [from_loss + from_next, dc_next])
    dx, dh, dc, dw = cells.lstm_backward(from_loss, from_next, dc_next, x, h, c, w)
    for got, want in zip([dx, dh, dc, *(part for part in dw if part is not None)], expected, strict=True):
        assert_same(got, want)


def test_cells_are_those_of_torch() -> None:
    x, h, c = draw(B, I), draw(B, H), draw(B, H)
    for theirs, ours in [
        (nn.RNNCell(I, H), cells.rnn_tanh_cell),
        (nn.RNNCell(I, H, nonlinearity="relu"), cells.rnn_relu_cell),
        (nn.GRUCell(I, H), cells.gru_cell),
    ]:
        theirs = theirs.double()
        assert_same(ours(x, h, Weights(*theirs.parameters())), theirs(x, h))
    lstm = nn.LSTMCell(I, H).double()
    for got, want in zip(cells.lstm_cell(x, h, c, Weights(*lstm.parameters())), lstm(x, (h, c)), strict=True):
        assert_same(got, want)


def test_steps_chained_by_hand_are_backpropagation_through_time() -> None:
    """The gradient that step t passes back is the `dh_next` of step t-1, and zero for the last step."""
    x, w = draw(4, B, I), weights(3, True)
    states = [torch.zeros(B, H, dtype=torch.float64)]
    for x_t in x:
        states.append(cells.gru_cell(x_t, states[-1], w))
    from_loss = torch.randn(4, B, H, dtype=torch.float64)
    expected = torch.autograd.grad(torch.stack(states[1:]), [x, *w], from_loss)
    dh_next = torch.zeros(B, H, dtype=torch.float64)
    dx, dw = torch.empty_like(x), [torch.zeros_like(part) for part in w]
    for t in reversed(range(4)):
        dx[t], dh_next, step = cells.gru_backward(from_loss[t], dh_next, x[t], states[t], w)
        dw = [total + part for total, part in zip(dw, step, strict=True)]
    for got, want in zip([dx, *dw], expected, strict=True):
        assert_same(got, want)
