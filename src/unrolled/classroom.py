"""Weights to and from the layout of the course notebooks on image captioning (Stanford CS231n, Michigan EECS 498/598).

Students compute ``a = x Wx + h Wh + b``, one bias, and with attention ``+ attn Wattn``; here, as in torch.nn, it is
``W_ih x + b_ih + W_hh h + b_hh``. So a matrix is the other's transpose, our two biases count as their sum, and what is
attended, which they give a matrix of its own, stands here beside the word in the input [x, attn]. The LSTM's gates are
i f o g there and i f g o here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.cells import Weights


class Classroom(NamedTuple):
    """One cell's weights as the course has them; G*H is H for the RNN and 4H for the LSTM, with gates i f o g."""

    Wx: Tensor
    """(D, G*H), from the word."""
    Wh: Tensor
    """(H, G*H), from the state."""
    b: Tensor
    """(G*H,)"""
    Wattn: Tensor | None = None
    """(H, G*H), from what is attended; None without attention."""


def from_classroom(Wx: Tensor, Wh: Tensor, b: Tensor, Wattn: Tensor | None = None) -> Weights:
    """The course's weights of an RNN or LSTM as ours, for `cells`, `layers` and torch.nn; numpy arrays will do.

    With Wattn, the input that w_ih expects is [x, attn], (N, D + H). b becomes b_ih, and b_hh is zero.

    Raises:
        ValueError: shapes that are not those of one cell.

    >>> w = from_classroom(torch.randn(3, 20), torch.randn(5, 20), torch.randn(20))
    >>> w.w_ih.shape, w.w_hh.shape
    (torch.Size([20, 3]), torch.Size([20, 5]))
    >>> lstm = torch.nn.LSTM(3, 5)
    >>> lstm.load_state_dict(dict(zip(["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"], w)))
    <All keys matched successfully>
    """
    x, h, bias = (torch.as_tensor(part) for part in (Wx, Wh, b))
    attended = None if Wattn is None else torch.as_tensor(Wattn)
    if h.dim() != 2 or h.shape[1] not in (h.shape[0], 4 * h.shape[0]):
        raise ValueError(f"from_classroom expected Wh of (H, H) for an RNN or (H, 4H) for an LSTM, got {tuple(h.shape)}.")
    size, width = h.shape
    if x.dim() != 2 or x.shape[1] != width or bias.shape != (width,) or (attended is not None and attended.shape != h.shape):
        got = ", ".join(str(None if part is None else tuple(part.shape)) for part in (x, bias, attended))
        raise ValueError(
            f"from_classroom expected Wx (D, {width}), b ({width},) and Wattn None or ({size}, {width}) "
            f"beside Wh {(size, width)}, got {got}."
        )
    bias = _swap_last_gates(bias, size)
    x = _swap_last_gates(x if attended is None else torch.cat([x, attended]), size)  # (D [+ H], G*H)
    return Weights(x.mT.contiguous(), _swap_last_gates(h, size).mT.contiguous(), bias, torch.zeros_like(bias))


def to_classroom(w: Weights, *, attention: bool = False) -> Classroom:
    """Our weights of an RNN or LSTM as the course's; a layer's are ``Weights(*layer.all_weights[0])``.

    Args:
        w: of shapes (G*H, D), (G*H, H) and two biases (G*H,) or None, with G 1 or 4.
        attention: whether the last H of the input are what was attended: w_ih is then (G*H, D + H).

    Raises:
        ValueError: a GRU, which the course does not have, or, with `attention`, an input too narrow for it.

    >>> w = Weights(torch.randn(20, 3 + 5), torch.randn(20, 5), torch.ones(20), torch.ones(20))
    >>> there = to_classroom(w, attention=True)
    >>> there.Wx.shape, there.Wattn.shape, there.b[0]
    (torch.Size([3, 20]), torch.Size([5, 20]), tensor(2.))
    >>> torch.equal(from_classroom(*there).w_ih, w.w_ih)
    True
    """
    width, size = w.w_hh.shape
    if width not in (size, 4 * size):
        raise ValueError(f"to_classroom expected w_hh of (H, H) for an RNN or (4H, H) for an LSTM, got {(width, size)}.")
    words = w.w_ih.shape[1] - (size if attention else 0)
    if words < 1:
        raise ValueError(f"to_classroom expected w_ih of (G*H, D + H) with H={size}, got {tuple(w.w_ih.shape)}.")
    zeros = torch.zeros_like(w.w_hh[:, 0])
    bias = (zeros if w.b_ih is None else w.b_ih) + (zeros if w.b_hh is None else w.b_hh)
    x, h = (_swap_last_gates(part.mT, size).contiguous() for part in (w.w_ih, w.w_hh))
    return Classroom(x[:words], h, _swap_last_gates(bias, size), x[words:] if attention else None)


def _swap_last_gates(x: Tensor, size: int) -> Tensor:
    """i f o g <-> i f g o along the last axis, (..., 4H); an RNN's (..., H) as it is."""
    if x.shape[-1] == size:
        return x
    i, f, third, fourth = x.split(size, dim=-1)
    return torch.cat([i, f, fourth, third], dim=-1)
