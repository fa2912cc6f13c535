"""The course's formulas with the course's weights give what our cells give with ours, both ways."""

import math

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor

from unrolled import LSTM, RNN, cells
from unrolled.attention import DotAttention
from unrolled.classroom import from_classroom, to_classroom

B, D, H, T = 3, 2, 5, 4


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# The course's own step functions, as its handout states them.


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    return torch.tanh(x @ Wx + prev_h @ Wh + b)


def dot_product_attention(prev_h, A):
    """prev_h (N, H), A (N, H, 4, 4) -> attn (N, H), weights (N, 4, 4)."""
    n, size, rows, columns = A.shape
    flat = A.reshape(n, size, rows * columns)
    scores = torch.bmm(prev_h.reshape(n, 1, size), flat) / math.sqrt(size)
    weights = torch.softmax(scores, dim=2)  # (N, 1, 16)
    attn = torch.bmm(flat, weights.transpose(1, 2)).squeeze(2)
    return attn, weights.reshape(n, rows, columns)


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b, attn=None, Wattn=None):
    a = x @ Wx + prev_h @ Wh + b
    if attn is not None:
        a = a + attn @ Wattn
    size = prev_h.shape[1]
    i, f, o, g = (a[:, k * size : (k + 1) * size] for k in range(4))
    i, f, o, g = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)
    next_c = f * prev_c + i * g
    return o * torch.tanh(next_c), next_c


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_an_rnn_from_the_course_computes_the_same_here() -> None:
    theirs = randn(D, H), randn(H, H), randn(H)
    x, h = randn(B, D), randn(B, H)
    assert_same(cells.rnn_tanh_cell(x, h, from_classroom(*theirs)), rnn_step_forward(x, h, *theirs))


def test_our_rnn_computes_the_same_there() -> None:
    layer = RNN(D, H, dtype=torch.float64)
    theirs = to_classroom(cells.Weights(*layer.all_weights[0]))
    x, h = randn(T, B, D), torch.zeros(B, H, dtype=torch.float64)
    output, _ = layer(x)
    for t in range(T):
        h = rnn_step_forward(x[t], h, theirs.Wx, theirs.Wh, theirs.b)
        assert_same(output[t], h)


def test_an_lstm_from_the_course_computes_the_same_here() -> None:
    theirs = randn(D, 4 * H), randn(H, 4 * H), randn(4 * H)
    x, h, c = randn(B, D), randn(B, H), randn(B, H)
    ours = cells.lstm_cell(x, h, c, from_classroom(*theirs))
    for mine, expected in zip(ours, lstm_step_forward(x, h, c, *theirs), strict=True):
        assert_same(mine, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_our_lstm_computes_the_same_there(bias: bool) -> None:
    layer = LSTM(D, H, bias=bias, dtype=torch.float64)
    theirs = to_classroom(cells.Weights(*layer.all_weights[0]))
    x, h, c = randn(T, B, D), *torch.zeros(2, B, H, dtype=torch.float64)
    output, _ = layer(x)
    for t in range(T):
        h, c = lstm_step_forward(x[t], h, c, theirs.Wx, theirs.Wh, theirs.b)
        assert_same(output[t], h)


def course_attention_lstm(x: Tensor, a: Tensor, theirs) -> tuple[Tensor, Tensor]:
    h = c = a.mean(dim=(2, 3))
    hs, looked = [], []
    for x_t in x:
        attn, weights = dot_product_attention(h, a)
        h, c = lstm_step_forward(x_t, h, c, theirs.Wx, theirs.Wh, theirs.b, attn, theirs.Wattn)
        hs.append(h)
        looked.append(weights)
    return torch.stack(hs), torch.stack(looked)


def our_attention_lstm(x: Tensor, a: Tensor, w: cells.Weights) -> tuple[Tensor, Tensor]:
    places = a.flatten(2).mT  # (N, 16, H)
    attention = DotAttention(H, H, projected=False)
    keys, h, c = attention.keys(places), places.mean(1), places.mean(1)
    hs, looked = [], []
    for x_t in x:
        z, weights = attention(h[:, None], places, keys)
        h, c = cells.lstm_cell(torch.cat([x_t, z[:, 0]], dim=-1), h, c, w)
        hs.append(h)
        looked.append(weights[:, 0].unflatten(-1, (4, 4)))
    return torch.stack(hs), torch.stack(looked)


def test_an_attention_lstm_computes_the_same_here_and_there() -> None:
    """In fp32, in which our attention takes its softmax."""
    theirs = to_classroom(cells.Weights(*(randn(4 * H, D + H), randn(4 * H, H), randn(4 * H), randn(4 * H))), attention=True)
    theirs = type(theirs)(*(part.float() for part in theirs if part is not None))
    x, a = torch.randn(T, B, D), torch.randn(B, H, 4, 4)
    for mine, expected in zip(
        our_attention_lstm(x, a, from_classroom(*theirs)), course_attention_lstm(x, a, theirs), strict=True
    ):
        assert_same(mine, expected)


@pytest.mark.parametrize("width", [H, 4 * H], ids=["rnn", "lstm"])
@pytest.mark.parametrize("attention", [False, True])
def test_there_and_back_is_the_same(width: int, attention: bool) -> None:
    theirs = randn(D, width), randn(H, width), randn(width), randn(H, width) if attention else None
    ours = from_classroom(*theirs)
    for part, expected in zip(to_classroom(ours, attention=attention), theirs, strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            assert torch.equal(part, expected)


def test_numpy_arrays_will_do() -> None:
    w = from_classroom(randn(D, H).numpy(), randn(H, H).numpy(), randn(H).numpy())  # type: ignore[arg-type]
    assert w.w_ih.shape == (H, D)


def test_shapes_of_no_cell_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected Wh of \(H, H\) for an RNN or \(H, 4H\) for an LSTM, got \(5, 15\)"):
        from_classroom(randn(D, 3 * H), randn(H, 3 * H), randn(3 * H))
    with pytest.raises(ValueError, match=r"beside Wh \(5, 20\), got \(20, 2\), \(20,\), None"):
        from_classroom(randn(4 * H, D), randn(H, 4 * H), randn(4 * H))
    with pytest.raises(ValueError, match=r"for an LSTM, got \(15, 5\)"):
        to_classroom(cells.Weights(randn(3 * H, D), randn(3 * H, H)))
    with pytest.raises(ValueError, match=r"expected w_ih of \(G\*H, D \+ H\) with H=5, got \(20, 2\)"):
        to_classroom(cells.Weights(randn(4 * H, D), randn(4 * H, H)), attention=True)
