"""How much a state of long ago can change the state of now: the Jacobian dh_T/dh_t, without ever making it.

It is the product of the Jacobians of the T - t steps in between (Pascanu, Mikolov and Bengio 2013, eq. 5), and an H x H matrix
for each sequence. Its largest singular values come out of products with vectors: J v by forward-mode, J^T u by backward-mode
differentiation, in turn, on several vectors kept orthogonal (power iteration on a subspace).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.inspection.inside import Inside
from unrolled.kernels import definition

_SETTLED = 1e-3
"""Of singular values between two rounds, as a share of the largest."""
_GUARDS = 2
"""More vectors than are asked for: the values that are settle in fewer rounds."""
_NOTHING = 1e-9
"""A norm below is not followed further back."""


class Spectrum(NamedTuple):
    """Of the Jacobians of several sequences, (B, k) and (B,)."""

    largest: Tensor
    """Singular values, the largest first: the first is the Jacobian's norm."""
    frobenius: Tensor
    """The root of the sum of all squared singular values: estimated from a few random vectors a sequence."""


def spectrum(function: Callable[[Tensor, int], Tensor], at: Tensor, count: int = 3, rounds: int = 12) -> Spectrum:
    """The largest singular values of the Jacobians of a function of rows, each row a sequence's.

    Args:
        function: `(rows (B * copies, H), copies) -> (B * copies, H')`, where each row in stands `copies` times and is
            differentiable both ways; row n out depends on row n in alone.
        at: where the Jacobians are taken, (B, H).
        count: how many singular values, at most H.
        rounds: at most; it ends when the values stay within a thousandth.

    >>> import torch
    >>> matrix = torch.diag(torch.tensor([0.5, 3.0, 2.0]))
    >>> spectrum(lambda rows, copies: rows @ matrix.T, torch.zeros(1, 3), count=2).largest.round(decimals=2)
    tensor([[3., 2.]])
    """
    batch, width = at.shape
    asked, count = min(count, width), min(count + _GUARDS, width)
    generator = torch.Generator().manual_seed(0)
    wide = at.detach().repeat_interleave(count, 0)  # (B*k, H)

    def rows(vectors: Tensor) -> Tensor:  # (B, H, k) -> (B*k, H)
        return vectors.transpose(1, 2).reshape(batch * count, -1)

    def columns(rows: Tensor) -> Tensor:  # (B*k, H) -> (B, H, k)
        return rows.view(batch, count, -1).transpose(1, 2)

    def ahead(rows: Tensor) -> Tensor:
        return function(rows, count)

    drawn = torch.randn(batch, width, count, generator=generator, dtype=torch.float64).to(at)
    v, _ = torch.linalg.qr(drawn)
    values, frobenius = at.new_zeros(batch, count), at.new_zeros(batch)
    backward: Any = torch.func.vjp(ahead, wide)[1]
    for number in range(rounds):
        jv = columns(torch.func.jvp(ahead, (wide,), (rows(v),))[1])
        if number == 0:
            frobenius = (width * jv.square().sum(1).mean(1)).sqrt()  # E |J v|^2 = |J|_F^2 / H for a random unit vector
        u, _ = torch.linalg.qr(jv)
        v, triangle = torch.linalg.qr(columns(backward(rows(u))[0]))
        last, values = values, torch.linalg.svdvals(triangle)
        if bool(((values - last).abs() <= _SETTLED * values[:, :1])[:, :asked].all()):
            break
    return Spectrum(values.sort(1, descending=True).values[:, :asked], frobenius)


def through_time(
    one: Inside, distances: list[int], count: int = 3, told: Callable[[], None] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """dh_T/dh_t, and of the LSTM dc_T/dc_t, at t = T - d for growing distances d: medians over the sequences. A path ends where
    its norm is nothing.

    h of the LSTM is taken with c_t held fast, and c with h_t held fast: these are the two paths. `told` is called after each
    distance.
    """
    found: dict[str, list[dict[str, Any]]] = {path: [] for path in (("h", "c") if one.c is not None else ("h",))}
    last = len(one.x_gates)
    for distance in distances:
        begin = last - distance
        for path, of_path in found.items():
            if of_path and of_path[-1]["norm"] < _NOTHING:
                continue

            def ahead(rows: Tensor, copies: int, begin: int = begin, path: str = path) -> Tensor:
                h, c = one.h[begin].repeat_interleave(copies, 0), None
                if one.c is not None:
                    c = one.c[begin].repeat_interleave(copies, 0)
                h, c = (rows, c) if path == "h" else (h, rows)
                gates = one.x_gates[begin:].repeat_interleave(copies, 1)
                _, _, h_n, c_n = definition.run_gates(one.mode, gates, h, c, one.w.w_hh, one.w.b_hh, one.w_hr)
                return h_n if path == "h" or c_n is None else c_n

            of = one.h[begin] if path == "h" or one.c is None else one.c[begin]
            largest, frobenius = spectrum(ahead, of, count)
            values = largest.median(0).values.tolist()
            of_path.append(
                {
                    "distance": distance,
                    "norm": values[0],
                    "singular_values": values,
                    "frobenius": math.sqrt(float(frobenius.square().median())),
                }
            )
        if told:
            told()
    return found


def spaced(longest: int) -> list[int]:
    """Distances 1, 2, 4, ... up to the longest, which is the last.

    >>> spaced(10)
    [1, 2, 4, 8, 10]
    """
    powers = [2**k for k in range(longest.bit_length()) if 2**k < longest]
    return [*powers, longest] if longest > 0 else []
