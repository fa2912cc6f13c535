"""Sequences by the definition: a cell's step in a loop, in differentiable PyTorch operations.

For every device, dtype and order of derivative. Kernels are checked against this, and their second derivatives are its.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding as rows_of
from torch.nn.functional import linear, one_hot

from unrolled import cells
from unrolled.cells import MODES, Norms, Weights
from unrolled.options import NO_OPTIONS, StepOptions

from . import context


def run(
    mode: str,
    x: Tensor,
    h: Tensor,
    c: Tensor | None,
    w: Weights,
    w_hr: Tensor | None = None,
    *,
    embedding: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
    grad_norms: Tensor | None = None,
    options: StepOptions = NO_OPTIONS,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """One layer in one direction over x (T, B, I), or token ids (T, B): (output, cs, h_n, c_n), as `kernels.run`."""
    x_gates = input_gates(mode, x, w, lengths, embedding, options.norms)
    masks = {"lengths": lengths, "resets": resets, "reverse": reverse, "grad_norms": grad_norms}
    return run_gates(mode, x_gates, h, c, w.w_hh, w.b_hh, w_hr, **masks, options=options)


def input_gates(
    mode: str,
    x: Tensor,
    w: Weights,
    lengths: Tensor | None,
    embedding: Tensor | None,
    norms: Norms | None,
    linear: Callable[..., Tensor] = linear,
) -> Tensor:
    """W_ih x_t + b_ih of every step in one product, normalised where that is asked for: (T, B, G*H).

    For token ids they are rows of a table (V, G*H).
    """

    def with_bias(product: Tensor) -> Tensor:
        if norms is not None:
            gates = MODES[mode].gates
            return cells.normalised(product, norms.ih, w.b_ih, cells.norm_widths(gates, len(norms.ih) // gates))
        return product if w.b_ih is None else product + w.b_ih

    if x.dtype in context.INTEGERS:
        return rows_of(x, with_bias(w.w_ih.t() if embedding is None else linear(embedding, w.w_ih)))
    if lengths is not None:  # a NaN behind a sequence's end must not reach the weights' gradients as 0 * NaN
        steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
        x = x.masked_fill((steps >= lengths).unsqueeze(-1), 0)
    return linear(x, w.w_ih, w.b_ih) if norms is None else with_bias(linear(x, w.w_ih))


def as_vectors(x: Tensor, w_ih: Tensor, embedding: Tensor | None) -> Tensor:
    """x, or what its token ids stand for: rows of the embedding or one-hot vectors."""
    if x.dtype not in context.INTEGERS:
        return x
    return one_hot(x, w_ih.shape[1]).to(w_ih.dtype) if embedding is None else rows_of(x, embedding)


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
    options: StepOptions = NO_OPTIONS,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """From x_gates = W_ih x + b_ih (normalised where that is asked for), (T, B, G*H), and the state before:
    (output, cs, h_n, c_n), as `kernels.run`.

    cs and c_n are None except for the LSTM. With w_hr (P, H) the LSTM's output is W_hr h_t (Sak et al. 2014).
    """
    outputs: list[Tensor] = []
    cs: list[Tensor] = []
    steps = range(x_gates.shape[0])
    for t in reversed(steps) if reverse else steps:
        alive = None if lengths is None else (t < lengths).unsqueeze(-1)  # (B, 1)
        h_before, c_before = h, c
        if resets is not None:
            fresh = resets[t].bool().unsqueeze(-1)  # (B, 1)
            start_h, start_c = (0 if part is None else part for part in options.reset_to)
            h_before = torch.where(fresh, start_h, h)
            c_before = None if c is None else torch.where(fresh, start_c, c)
        h_t, c_t = step(mode, x_gates[t], h_before, c_before, w_hh, b_hh, options)
        if w_hr is not None:
            h_t = linear(h_t, w_hr)
        h_t = _zoned(h_before, h_t, options.zoneout_h, t)
        if c_t is not None and c_before is not None:
            c_t = _zoned(c_before, c_t, options.zoneout_c, t)
        if grad_norms is not None:
            _note_gradient(h_t, grad_norms[0, t])
            _note_gradient(c_t, grad_norms[1, t])
        outputs.append(h_t if alive is None else h_t.masked_fill(~alive, 0))
        h = h_t if alive is None else torch.where(alive, h_t, h)
        if c is not None and c_t is not None:
            cs.append(c_t if alive is None else c_t.masked_fill(~alive, 0))
            c = c_t if alive is None else torch.where(alive, c_t, c)
    return _in_order(outputs, reverse, h), None if c is None else _in_order(cs, reverse, c), h, c


def step(
    mode: str,
    x_t: Tensor,
    h: Tensor,
    c: Tensor | None,
    w_hh: Tensor,
    b_hh: Tensor | None,
    options: StepOptions = NO_OPTIONS,
) -> tuple[Tensor, Tensor | None]:
    """The cell's step from x_t = W_ih x + b_ih (B, G*H), with normalisation and recurrent dropout: (h_t, c_t)."""
    norms, seen = options.norms, h if options.mask is None else h * options.mask
    if norms is None:
        h_gates = linear(seen, w_hh, b_hh)
    else:
        widths = cells.norm_widths(MODES[mode].gates, w_hh.shape[0] // MODES[mode].gates)
        h_gates = cells.normalised(linear(seen, w_hh), norms.hh, b_hh, widths)
    if c is not None:
        return cells.lstm_from_gates(x_t + h_gates, c, None if norms is None else norms.c)
    if mode == "GRU":
        return cells.gru_from_gates(x_t, h_gates, h), None
    return (torch.relu if mode == "RNN_RELU" else torch.tanh)(x_t + h_gates), None


def _zoned(before: Tensor, fresh: Tensor, stay: Tensor | float, t: int) -> Tensor:
    if isinstance(stay, Tensor):
        return cells.zoneout(before, fresh, stay[t].to(fresh.dtype))
    return cells.zoneout(before, fresh, stay) if stay else fresh


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
