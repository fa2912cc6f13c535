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

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


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
    i, f, g, o = (x_gates + linear(h, w_hh, b_hh)).chunk(4, dim=-1)  # each (B, H)
    c_t = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c_t), c_t


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
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)
    h_r, h_z, h_n = linear(h, w_hh, b_hh).chunk(3, dim=-1)
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


def _weight_gradients(dx_gates: Tensor, dh_gates: Tensor, x: Tensor, h: Tensor, w: Weights) -> Weights:
    """Outer products summed over the batch: dW_ih = dgates^T x, dW_hh = dgates^T h_{t-1}, and the sums for the biases."""
    return Weights(
        dx_gates.mT @ x,
        dh_gates.mT @ h,
        None if w.b_ih is None else dx_gates.sum(0),
        None if w.b_hh is None else dh_gates.sum(0),
    )
