"""One time step of each recurrent cell: THE definition that every layer and kernel is checked against.

A recurrent network keeps a state and updates it at every step, h_t = f_W(h_{t-1}, x_t). Each cell below is that f, written
as it stands in the literature, and beside it the same step run backwards by hand.

Going backwards, **two gradients meet at h_t**: ``dh_loss``, from what this step's own loss says about h_t, and ``dh_next``,
what step t+1 passes back because it was computed from h_t (zero at the last step). Their sum is dL/dh_t; the cell turns it
into the gradient for step t-1, and adds this step's share to the gradient of weights that all steps have in common.

Shapes: x (B, I), h and c (B, H), W_ih (G*H, I), W_hh (G*H, H), b_ih and b_hh (G*H,), with G = 1 gate for the RNN, 3 for the
GRU (r z n) and 4 for the LSTM (i f g o). These are torch.nn's layouts and orders. Biases may be None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear


class Mode(NamedTuple):
    """What the rest of the library has to know of a cell beside its equations."""

    number: int
    """Its number in the C interface."""
    gates: int
    """G: blocks of H rows in W_ih and W_hh."""
    saved: int
    """Values per unit that the kernels save for backward; none where h_t says it all."""
    states: int
    """Tensors of state: h, or h and c."""


MODES = {"LSTM": Mode(0, 4, 4, 2), "GRU": Mode(1, 3, 4, 1), "RNN_TANH": Mode(2, 1, 0, 1), "RNN_RELU": Mode(3, 1, 0, 1)}


class Weights(NamedTuple):
    """The parameters of one cell, or, from a ``*_backward`` function, the gradients of them."""

    w_ih: Tensor
    """(G*H, I), from the input."""
    w_hh: Tensor
    """(G*H, H), from the state."""
    b_ih: Tensor | None = None
    """(G*H,)"""
    b_hh: Tensor | None = None
    """(G*H,)"""


class Norm(NamedTuple):
    """Layer normalisation (Ba, Kiros and Hinton 2016, eq. 4), LN(a) = gain * (a - mean(a)) / sqrt(var(a) + 1e-5) + bias.

    Mean and (biased) variance are over the units of one step of one sequence.

    >>> import torch
    >>> Norm(torch.ones(2))(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.0000,  1.0000]])
    """

    gain: Tensor
    """(n,)"""
    bias: Tensor | None = None
    """(n,); none where the cell has a bias of its own there."""

    def __call__(self, a: Tensor) -> Tensor:
        return layer_norm(a, self.gain.shape, self.gain, self.bias)


def rnn_tanh_cell(x: Tensor, h: Tensor, w: Weights) -> Tensor:
    """One step of the vanilla RNN (Elman 1990, "Finding structure in time").

    h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    >>> import torch
    >>> w = Weights(torch.zeros(3, 2), torch.eye(3), torch.tensor([0., 1., 2.]), None)
    >>> rnn_tanh_cell(torch.ones(1, 2), torch.zeros(1, 3), w)
    tensor([[0.0000, 0.7616, 0.9640]])
    """
    return rnn_tanh_step(linear(x, w.w_ih, w.b_ih), h, w.w_hh, w.b_hh)


def rnn_tanh_step(x_gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
    """`rnn_tanh_cell` with ``x_gates = W_ih x_t + b_ih`` (B, H) already at hand."""
    return torch.tanh(x_gates + linear(h, w_hh, b_hh))


def rnn_tanh_backward(dh_loss: Tensor, dh_next: Tensor, x: Tensor, h: Tensor, w: Weights) -> tuple[Tensor, Tensor, Weights]:
    """The step of `rnn_tanh_cell` backwards: (dL/dx_t, dL/dh_{t-1}, this step's share of the weights' gradients).

    With a_t the argument of tanh, da = dh * (1 - h_t^2), because tanh' = 1 - tanh^2. The product W_hh^T da, taken once per
    step, is what makes gradients vanish or explode (Pascanu, Mikolov and Bengio 2013, eq. 5).
    """
    h_t = rnn_tanh_cell(x, h, w)
    dh = dh_loss + dh_next  # the two gradients meet
    da = dh * (1 - h_t * h_t)
    return da @ w.w_ih, da @ w.w_hh, _weight_gradients(da, da, x, h, w)


def rnn_relu_cell(x: Tensor, h: Tensor, w: Weights) -> Tensor:
    """One step of the rectified RNN (Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent networks").

    h_t = max(0, W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)

    >>> import torch
    >>> rnn_relu_cell(torch.ones(1, 1), torch.zeros(1, 2), Weights(torch.tensor([[3.0], [-3.0]]), torch.eye(2)))
    tensor([[3., 0.]])
    """
    return rnn_relu_step(linear(x, w.w_ih, w.b_ih), h, w.w_hh, w.b_hh)


def rnn_relu_step(x_gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
    """`rnn_relu_cell` with ``x_gates = W_ih x_t + b_ih`` (B, H) already at hand."""
    return torch.relu(x_gates + linear(h, w_hh, b_hh))


def rnn_relu_backward(dh_loss: Tensor, dh_next: Tensor, x: Tensor, h: Tensor, w: Weights) -> tuple[Tensor, Tensor, Weights]:
    """The step of `rnn_relu_cell` backwards: the gradient passes where the unit was on."""
    h_t = rnn_relu_cell(x, h, w)
    dh = dh_loss + dh_next  # the two gradients meet
    da = dh * (h_t > 0)
    return da @ w.w_ih, da @ w.w_hh, _weight_gradients(da, da, x, h, w)


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """One step of the LSTM (Hochreiter and Schmidhuber 1997; forget gate of Gers, Schmidhuber and Cummins 2000).

    i = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)        input gate: what is written
    f = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf)        forget gate: what is kept
    g = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)        what would be written
    o = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho)        output gate: what is shown
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

    >>> import torch
    >>> w = Weights(torch.zeros(4, 1), torch.zeros(4, 1))  # every gate half open, nothing to write
    >>> lstm_cell(torch.ones(1, 1), torch.zeros(1, 1), torch.full((1, 1), 2.0), w)
    (tensor([[0.3808]]), tensor([[1.]]))
    """
    return lstm_step(linear(x, w.w_ih, w.b_ih), h, c, w.w_hh, w.b_hh)


def lstm_step(x_gates: Tensor, h: Tensor, c: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> tuple[Tensor, Tensor]:
    """`lstm_cell` with ``x_gates = W_ih x_t + b_ih`` (B, 4H) already at hand."""
    return lstm_from_gates(x_gates + linear(h, w_hh, b_hh), c)


def lstm_from_gates(gates: Tensor, c: Tensor, norm_c: Norm | None = None) -> tuple[Tensor, Tensor]:
    """What `lstm_cell` does with the arguments of its gates, (B, 4H); with `norm_c`, what `layer_norm_lstm_cell` does."""
    i, f, g, o = gates.chunk(4, dim=-1)  # each (B, H)
    c_t = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_t if norm_c is None else norm_c(c_t)), c_t


def lstm_backward(
    dh_loss: Tensor, dh_next: Tensor, dc_next: Tensor, x: Tensor, h: Tensor, c: Tensor, w: Weights
) -> tuple[Tensor, Tensor, Tensor, Weights]:
    """The step of `lstm_cell` backwards: (dL/dx_t, dL/dh_{t-1}, dL/dc_{t-1}, share of the weights' gradients).

    dc_{t-1} = dc_t * f: along the cell state the gradient is only multiplied by the forget gate, never by a matrix, which is
    why an LSTM's gradients need not vanish (Hochreiter and Schmidhuber 1997, the "constant error carousel").
    """
    i, f, g, o = (linear(x, w.w_ih, w.b_ih) + linear(h, w.w_hh, w.b_hh)).chunk(4, dim=-1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    tanh_c = torch.tanh(f * c + i * g)
    dh = dh_loss + dh_next  # the two gradients meet at h_t
    dc = dc_next + dh * o * (1 - tanh_c * tanh_c)  # and two at c_t: from step t+1, and through h_t
    di = dc * g * i * (1 - i)
    df = dc * c * f * (1 - f)
    dg = dc * i * (1 - g * g)
    do = dh * tanh_c * o * (1 - o)
    dgates = torch.cat([di, df, dg, do], dim=-1)  # (B, 4H)
    return dgates @ w.w_ih, dgates @ w.w_hh, dc * f, _weight_gradients(dgates, dgates, x, h, w)


def gru_cell(x: Tensor, h: Tensor, w: Weights) -> Tensor:
    """One step of the GRU (Cho et al. 2014; the variant of torch.nn and cuDNN, with the reset gate after W_hn).

    r = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)        reset gate: how much of the past the candidate sees
    z = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)        update gate: how much of the past is kept
    n = tanh   (W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))  the candidate
    h_t = (1 - z) * n + z * h_{t-1}

    >>> import torch
    >>> gru_cell(torch.ones(1, 1), torch.full((1, 1), 2.0), Weights(torch.zeros(3, 1), torch.zeros(3, 1)))  # half is kept
    tensor([[1.]])
    """
    return gru_step(linear(x, w.w_ih, w.b_ih), h, w.w_hh, w.b_hh)


def gru_step(x_gates: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None) -> Tensor:
    """`gru_cell` with ``x_gates = W_ih x_t + b_ih`` (B, 3H) already at hand."""
    return gru_from_gates(x_gates, linear(h, w_hh, b_hh), h)


def gru_from_gates(x_gates: Tensor, h_gates: Tensor, h: Tensor) -> Tensor:
    """What `gru_cell` does with what its gates get from the input and from the state, each (B, 3H)."""
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)
    h_r, h_z, h_n = h_gates.chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


def gru_backward(dh_loss: Tensor, dh_next: Tensor, x: Tensor, h: Tensor, w: Weights) -> tuple[Tensor, Tensor, Weights]:
    """The step of `gru_cell` backwards: (dL/dx_t, dL/dh_{t-1}, this step's share of the weights' gradients).

    Because r multiplies W_hn h + b_hn after the product, the gates' gradient seen from h differs from that seen from x in
    its n part: dn there, dn * r here.
    """
    x_r, x_z, x_n = linear(x, w.w_ih, w.b_ih).chunk(3, dim=-1)
    h_r, h_z, h_n = linear(h, w.w_hh, w.b_hh).chunk(3, dim=-1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    dh = dh_loss + dh_next  # the two gradients meet
    dn = dh * (1 - z) * (1 - n * n)
    dz = dh * (h - n) * z * (1 - z)
    dr = dn * h_n * r * (1 - r)
    dx_gates = torch.cat([dr, dz, dn], dim=-1)  # (B, 3H)
    dh_gates = torch.cat([dr, dz, dn * r], dim=-1)
    return dx_gates @ w.w_ih, dh * z + dh_gates @ w.w_hh, _weight_gradients(dx_gates, dh_gates, x, h, w)


# ------------------------------------------------------------------------------------------------------ regularised


class Norms(NamedTuple):
    """The gains of a cell with layer normalisation; the biases beside them are the cell's own b_ih and b_hh."""

    ih: Tensor
    """(G*H,), of W_ih x."""
    hh: Tensor
    """(G*H,), of W_hh h."""
    c: Norm | None = None
    """Of the LSTM's c, (H,) gain and bias."""


def normalised(product: Tensor, gain: Tensor, bias: Tensor | None, widths: Sequence[int]) -> Tensor:
    """LN(W_ih x) or LN(W_hh h) with its gain and b, (..., G*H): mean and variance over each of `widths` neighbours.

    >>> import torch
    >>> normalised(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), torch.ones(4), None, [2, 2])
    tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    if len(widths) == 1:  # a split's gradient is a copy
        return layer_norm(product, gain.shape, gain, bias)
    biases = [None] * len(widths) if bias is None else bias.split(list(widths))
    pieces = zip(product.split(list(widths), dim=-1), gain.split(list(widths)), biases, strict=True)
    parts = [layer_norm(part, scale.shape, scale, shift) for part, scale, shift in pieces]
    return torch.cat(parts, dim=-1)


def norm_widths(gates: int, hidden: int) -> list[int]:
    """Which gates are normalised together: all of them, but of the GRU's r and z together and n alone."""
    return [2 * hidden, hidden] if gates == 3 else [gates * hidden]


def layer_norm_lstm_cell(x: Tensor, h: Tensor, c: Tensor, w: Weights, norms: Norms) -> tuple[Tensor, Tensor]:
    """One step of the LSTM with layer normalisation (Ba, Kiros and Hinton 2016, eq. 20-22).

    (i f g o) = LN(W_ih x_t; gain_ih) + b_ih + LN(W_hh h_{t-1}; gain_hh) + b_hh       mean and variance over all 4H
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(LN(c_t; gain_c) + b_c)

    >>> import torch
    >>> w, one = Weights(torch.zeros(8, 1), torch.zeros(8, 2)), torch.ones(8)  # every gate half open, nothing to write
    >>> layer_norm_lstm_cell(torch.ones(1, 1), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), w, Norms(one, one, Norm(one[:2])))
    (tensor([[-0.3808,  0.3808]]), tensor([[0.5000, 1.5000]]))
    """
    widths = norm_widths(4, h.shape[-1])
    x_gates = normalised(linear(x, w.w_ih), norms.ih, w.b_ih, widths)
    return lstm_from_gates(x_gates + normalised(linear(h, w.w_hh), norms.hh, w.b_hh, widths), c, norms.c)


def layer_norm_gru_cell(x: Tensor, h: Tensor, w: Weights, norms: Norms) -> Tensor:
    """One step of the GRU with layer normalisation (Ba, Kiros and Hinton 2016, appendix: the GRU of skip-thoughts).

    (r z) = LN(W_ih x_t) + b_ih + LN(W_hh h_{t-1}) + b_hh             their r and z rows; mean and variance over these 2H
    n = tanh(LN(W_in x_t) + b_in + sigmoid(r) * (LN(W_hn h_{t-1}) + b_hn))                                over these H
    h_t = (1 - sigmoid(z)) * n + sigmoid(z) * h_{t-1}

    Every LN with its gain. The paper's z is 1 - z here, as in torch.nn.

    >>> import torch
    >>> w = Weights(torch.zeros(3, 1), torch.zeros(3, 1))
    >>> layer_norm_gru_cell(torch.ones(1, 1), torch.full((1, 1), 2.0), w, Norms(torch.ones(3), torch.ones(3)))  # half is kept
    tensor([[1.]])
    """
    widths = norm_widths(3, h.shape[-1])
    x_gates = normalised(linear(x, w.w_ih), norms.ih, w.b_ih, widths)
    return gru_from_gates(x_gates, normalised(linear(h, w.w_hh), norms.hh, w.b_hh, widths), h)


def layer_norm_rnn_cell(x: Tensor, h: Tensor, w: Weights, norms: Norms, f: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """One step of the RNN with layer normalisation, each product by itself as in the paper's LSTM (eq. 20).

    h_t = f(LN(W_ih x_t; gain_ih) + b_ih + LN(W_hh h_{t-1}; gain_hh) + b_hh)

    The paper's own RNN (its eq. 4) normalises the sum of the products instead.

    >>> import torch
    >>> w, one = Weights(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]]).expand(2, 2)), torch.ones(2)
    >>> layer_norm_rnn_cell(torch.ones(1, 1), torch.ones(1, 2), w, Norms(one, one), torch.relu)
    tensor([[0.0000, 1.0000]])
    """
    widths = norm_widths(1, h.shape[-1])
    x_gates = normalised(linear(x, w.w_ih), norms.ih, w.b_ih, widths)
    return f(x_gates + normalised(linear(h, w.w_hh), norms.hh, w.b_hh, widths))


def zoneout(before: Tensor, fresh: Tensor, stay: Tensor | float) -> Tensor:
    """Zoneout (Krueger et al. 2017): some units keep their old state, state_t = stay * state_{t-1} + (1 - stay) * fresh.

    In training `stay` is a mask, 1 with the rate's probability, drawn anew at each step; in evaluation it is the rate, which
    is the expectation. For the LSTM, c_t and h_t have masks of their own, and h_t's fresh value is computed from the fresh c,
    before c's zoneout.

    >>> import torch
    >>> zoneout(torch.tensor([1.0, 1.0]), torch.tensor([5.0, 5.0]), torch.tensor([1.0, 0.0]))
    tensor([1., 5.])
    >>> zoneout(torch.tensor(1.0), torch.tensor(5.0), 0.25)
    tensor(4.)
    """
    return stay * before + (1 - stay) * fresh


def _weight_gradients(dx_gates: Tensor, dh_gates: Tensor, x: Tensor, h: Tensor, w: Weights) -> Weights:
    """Outer products summed over the batch: dW_ih = dgates^T x, dW_hh = dgates^T h_{t-1}, and the sums for the biases."""
    return Weights(
        dx_gates.mT @ x,
        dh_gates.mT @ h,
        None if w.b_ih is None else dx_gates.sum(0),
        None if w.b_hh is None else dh_gates.sum(0),
    )
