"""Sequences by the definition: a cell's step in a loop, in differentiable PyTorch operations.

For every device, dtype and order of derivative. Kernels are checked against this, and their second derivatives are its.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import linear

from unrolled import cells

STEP = {"RNN_TANH": cells.rnn_tanh_step, "RNN_RELU": cells.rnn_relu_step, "GRU": cells.gru_step}


def run_gates(
    mode: str,
    x_gates: Tensor,
    h: Tensor,
    c: Tensor | None,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    grad_norms: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """From x_gates = W_ih x + b_ih, (T, B, G*H), and the state before: (output, cs, h_n, c_n), as `kernels.run`.

    cs and c_n are None except for the LSTM. With w_hr (P, H) the LSTM's output is W_hr h_t (Sak et al. 2014).
    """
    outputs: list[Tensor] = []
    cs: list[Tensor] = []
    steps = range(x_gates.shape[0])
    for t in reversed(steps) if reverse else steps:
        alive = None if lengths is None else (t < lengths).unsqueeze(-1)  # (B, 1)
        h_before, c_before = h, c
        if resets is not None:
            cut = resets[t].bool().unsqueeze(-1)
            h_before = h.masked_fill(cut, 0)
            c_before = None if c is None else c.masked_fill(cut, 0)
        if c_before is not None:
            h_t, c_t = cells.lstm_step(x_gates[t], h_before, c_before, w_hh, b_hh)
        else:
            h_t, c_t = STEP[mode](x_gates[t], h_before, w_hh, b_hh), None
        if w_hr is not None:
            h_t = linear(h_t, w_hr)
        if grad_norms is not None:
            _note_gradient(h_t, grad_norms[0, t])
            _note_gradient(c_t, grad_norms[1, t])
        outputs.append(h_t if alive is None else h_t.masked_fill(~alive, 0))
        h = h_t if alive is None else torch.where(alive, h_t, h)
        if c is not None and c_t is not None:
            cs.append(c_t if alive is None else c_t.masked_fill(~alive, 0))
            c = c_t if alive is None else torch.where(alive, c_t, c)
    return _in_order(outputs, reverse, h), None if c is None else _in_order(cs, reverse, c), h, c


def _in_order(steps: list[Tensor], reverse: bool, like: Tensor) -> Tensor:
    return torch.stack(steps[::-1] if reverse else steps) if steps else like.new_empty(0, *like.shape)


def _note_gradient(state: Tensor | None, into: Tensor) -> None:
    """Have backward write the norm of all that arrives at each row of a state into `into` (B,)."""
    with torch.no_grad():
        into.zero_()
    if state is not None and state.requires_grad:
        state.register_hook(functools.partial(_write_norm, into))


def _write_norm(into: Tensor, gradient: Tensor) -> None:
    into.copy_(gradient.detach().norm(dim=-1))
