"""The same sequences in differentiable PyTorch operations: any device and dtype, differentiable any number of times."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def _cell(mode: str, gates_x: Tensor, h: Tensor, c: Tensor | None, w_hh: Tensor, b_hh: Tensor | None):
    gates_h = torch.nn.functional.linear(h, w_hh, b_hh)
    if c is not None:
        i, f, g, o = (gates_x + gates_h).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if mode == "GRU":
        (r, z, n), (hr, hz, hn) = gates_x.chunk(3, 1), gates_h.chunk(3, 1)
        r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
        n = (n + r * hn).tanh()
        return (1 - z) * n + z * h, None
    a = gates_x + gates_h
    return (a.tanh() if mode == "RNN_TANH" else a.relu()), None


def _write_norm(to: Tensor, gradient: Tensor) -> None:
    to.copy_(gradient.detach().norm(dim=1))


def _note_norms(grad_norms: Tensor | None, t: int, h: Tensor, c: Tensor | None) -> None:
    """Let backward write the norm of all that arrives at h_t and c_t into grad_norms (2, T, B)."""
    for row, state in enumerate((h, c)):
        if grad_norms is not None and state is not None and state.requires_grad:
            state.register_hook(functools.partial(_write_norm, grad_norms[row, t]))


def run_plain_gates(mode, gates_x, h0, c0, w_hh, b_hh, lengths=None, resets=None, reverse=False, grad_norms=None):
    """From gates_x = W_ih x + b_ih, (T, B, G*H): (output, cs, h_n, c_n); cs and c_n are None except for LSTM."""
    T, B = gates_x.shape[:2]
    H = w_hh.shape[1]
    h = gates_x.new_zeros(B, H) if h0 is None else h0
    c: Tensor | None = None
    if mode == "LSTM":
        c = gates_x.new_zeros(B, H) if c0 is None else c0
    outputs: list = [None] * T
    cells: list = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        h_in, c_in = h, c
        if resets is not None:
            cut = resets[t].bool()[:, None]
            h_in = torch.where(cut, torch.zeros_like(h), h)
            if c is not None:
                c_in = torch.where(cut, torch.zeros_like(c), c)
        h_new, c_new = _cell(mode, gates_x[t], h_in, c_in, w_hh, b_hh)
        _note_norms(grad_norms, t, h_new, c_new)
        outputs[t], cells[t] = h_new, c_new
        if lengths is not None:
            alive = (t < lengths)[:, None]
            outputs[t] = torch.where(alive, h_new, torch.zeros_like(h_new))
            h_new = torch.where(alive, h_new, h)
            if c is not None and c_new is not None:
                cells[t] = torch.where(alive, c_new, torch.zeros_like(c_new))
                c_new = torch.where(alive, c_new, c)
        h, c = h_new, c_new
    output = torch.stack(outputs) if T else gates_x.new_zeros(0, B, H)
    cs = None
    if c is not None:
        cs = torch.stack(cells) if T else gates_x.new_zeros(0, B, H)
    return output, cs, h, c


def run_plain(mode, x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, lengths=None, resets=None, reverse=False):
    """One layer, one direction, x (T, B, I): (output, cs, h_n, c_n); cs and c_n are None except for LSTM."""
    gates_x = torch.nn.functional.linear(x, w_ih, b_ih)
    return run_plain_gates(mode, gates_x, h0, c0, w_hh, b_hh, lengths, resets, reverse)
