"""Training memory for time: keep x and h, and compute the gates of a segment of time again when backward comes to it.

Forward runs in segments and keeps, besides every h, the LSTM's c before each segment. Backward takes the segments from the
last: from the h and c before it, forward again, now with gates; then its gradients, with dh and dc handed to the segment
before. So gates exist for one segment at a time, in a workspace that all segments share. The result is the same as
without, but that the weights' gradients are summed in another order.
"""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

import torch
from torch import Tensor

from . import library
from .sequence import Inputs, Results, new_results, sums_dtype
from .sequence import backward as run_backward
from .sequence import forward as run_forward

ROWS = 2048
"""Steps times batch of a segment. Weights are packed and their gradients summed once more per segment, gates need
4 * H numbers a row."""


def segment_steps(steps: int, batch: int) -> int:
    """How many steps a segment has: all of them, cut evenly. 0 where there is nothing to compute again."""
    return -(-steps // max(1, -(-steps * batch // ROWS)))


def _segments(steps: int, segment: int, reverse: bool) -> list[tuple[int, int]]:
    """[first, end) of the segments in the order in which forward takes them. Reversed, the ragged one comes first in time."""
    bounds = [(first, min(first + segment, steps)) for first in range(0, steps, segment)]
    return bounds[::-1] if reverse else bounds


def _part(given: Inputs, h: Tensor | None, c: Tensor | None, first: int, end: int) -> Inputs:
    """The inputs of a segment that begins with the state h, c."""
    x, ids, resets = (None if t is None else t[first:end] for t in (given.x, given.ids, given.resets))
    lengths = None if given.lengths is None else (given.lengths - first).clamp(0, end - first)
    return given._replace(x=x, ids=ids, h0=h, c0=c, lengths=lengths, resets=resets)


def forward(mode: str, given: Inputs, results: Results, reverse: bool, every_c: bool, segment: int) -> Results:
    """Fill `results`: output, cs, h_n, c_n, and, as gates, c before each segment."""
    output, cs, h_n, c_n, marks = results
    h, c, lstm = given.h0, given.c0, mode == "LSTM"
    c_last = torch.empty_like(c_n, dtype=sums_dtype(c_n.dtype))  # c_n itself may be bf16
    for k, (first, end) in enumerate(_segments(len(output), segment, reverse)):
        if lstm:
            marks[k] = 0 if c is None else c
        part = Results(output[first:end], cs[first:end] if every_c else cs, h_n, c_last, None)
        run_forward(mode, _part(given, h, c, first, end), part, reverse, False, every_c)
        h, c = h_n, c_last if lstm else None
    c_n.copy_(c_last)
    return results


def backward(
    mode: str,
    incoming: tuple,
    given: Inputs,
    output: Tensor,
    marks: Tensor,
    gradients: tuple[Tensor, ...],
    reverse: bool,
    needed: list[bool],
    norms: bool,
    segment: int,
) -> tuple[Tensor, ...]:
    """Fill `gradients` from those of output, cs, h_n and c_n."""
    d_out, d_cs, dh, dc = incoming
    steps, batch, wide = *output.shape[:2], sums_dtype(given.w_hh.dtype)
    segments = _segments(steps, segment, reverse)
    longest = given._replace(**{n: t[:segment] for n in ("x", "ids") if (t := getattr(given, n)) is not None})
    again = new_results(mode, longest, True, True, empty=library.empty)
    X, H0, C0, NORMS = 0, 2, 3, 8  # places in `gradients`; x and the norms have each step's own, h0 and c0 a segment's
    sums = {i: g for i, g in enumerate(gradients) if i not in (X, H0, C0, NORMS) and needed[i]}
    totals = {i: torch.zeros_like(g, dtype=wide) for i, g in sums.items()} if len(segments) > 1 else {}
    for k in reversed(range(len(segments))):
        first, end = segments[k]
        h, c = given.h0, given.c0
        if k > 0:
            h = output[end] if reverse else output[first - 1]
            if reverse and given.lengths is not None:  # sequences that do not begin behind this segment begin in it, or later
                h = torch.where((given.lengths > end).unsqueeze(-1), h, 0 if given.h0 is None else given.h0)
            c = None if mode != "LSTM" else marks[k]
        part = _part(given, h, c, first, end)
        saved = again.output[: end - first], again.cs[: end - first]
        gates = again.gates[: again.gates.numel() // segment * (end - first)]
        run_forward(mode, part, Results(*saved, again.h_n, again.c_n, gates), reverse, True, True)
        into, wanted = list(gradients), list(needed)
        if needed[X]:
            into[X] = gradients[X][first:end]
        if norms:
            into[NORMS] = torch.empty(2, end - first, batch, dtype=torch.float32, device=output.device)
        if k > 0:
            into[H0], into[C0] = output.new_empty(output.shape[1:]), output.new_empty(output.shape[1:], dtype=wide)
            wanted[H0], wanted[C0] = True, mode == "LSTM"
        for i in totals:
            into[i] = torch.empty_like(gradients[i])
        arriving = [None if t is None else t[first:end] for t in (d_out, d_cs)]
        run_backward(mode, (*arriving, dh, dc), part, (*saved, gates), tuple(into), reverse, wanted, norms)
        for i, total in totals.items():
            total += into[i]
        if norms:
            gradients[NORMS][:, first:end] = into[NORMS]
        dh, dc = into[H0], into[C0] if mode == "LSTM" else None
    for i, total in totals.items():
        gradients[i].copy_(total)
    return gradients
