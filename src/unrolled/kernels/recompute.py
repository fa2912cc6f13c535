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

from . import native, ops

ROWS = 2048
"""Steps times batch of a segment. Weights are packed and their gradients summed once more per segment, gates need
4 * H numbers a row. At T=1000, B=32, H=512 2048, 4096 and 8192 rows took the same time, within the noise."""


def segment_steps(steps: int, batch: int) -> int:
    """How many steps a segment has: all of them, cut evenly. 0 where there is nothing to compute again."""
    return -(-steps // max(1, -(-steps * batch // ROWS)))


def _segments(steps: int, segment: int, reverse: bool) -> list[tuple[int, int]]:
    """[first, end) of the segments in the order in which forward takes them. Reversed, the ragged one comes first in time."""
    cuts = [(first, min(first + segment, steps)) for first in range(0, steps, segment)]
    return cuts[::-1] if reverse else cuts


def _piece(given: tuple, h: Tensor | None, c: Tensor | None, first: int, end: int) -> tuple:
    """The inputs of a segment that begins with the state h, c."""
    x, ids, table, _, _, w_ih, w_hh, b_ih, b_hh, lengths, resets = given
    lengths = None if lengths is None else (lengths - first).clamp(0, end - first)
    x, ids, resets = (None if t is None else t[first:end] for t in (x, ids, resets))
    return x, ids, table, h, c, w_ih, w_hh, b_ih, b_hh, lengths, resets


def forward(given: tuple, results: tuple, mode: str, reverse: bool, every_c: bool, segment: int) -> tuple:
    """Fill `results`: output, cs, h_n, c_n, and c before each segment."""
    output, cs, h_n, c_n, marks = results
    h, c = given[3:5]
    lstm = mode == "LSTM"
    c_last = torch.empty_like(c_n, dtype=ops._real(c_n.dtype))  # c_n itself may be bf16
    for k, (first, end) in enumerate(_segments(len(output), segment, reverse)):
        if lstm:
            marks[k] = 0 if c is None else c
        part = output[first:end], cs[first:end] if every_c else cs, h_n, c_last, None
        ops._run_forward(_piece(given, h, c, first, end), part, mode, reverse, False, every_c)
        h, c = h_n, c_last if lstm else None
    c_n.copy_(c_last)
    return results


def backward(
    incoming: tuple,
    given: tuple,
    output: Tensor,
    marks: Tensor,
    results: tuple,
    mode: str,
    reverse: bool,
    needed,
    norms,
    segment,
) -> tuple:
    """Fill `results`, the gradients, from the gradients of output, cs, h_n and c_n."""
    d_out, d_cs, dh, dc = incoming
    x, ids, _, h0, c0, _, w_hh, _, _, lengths, _ = given
    steps, batch, dtype = *output.shape[:2], w_hh.dtype
    segments = _segments(steps, segment, reverse)
    longest = None if x is None else x[:segment], None if ids is None else ids[:segment]
    again = ops._new_forward(*longest, h0, c0, w_hh, mode, True, True, empty=native.empty)
    per_step = {0, 8}  # dx and norms, of which a segment has its own steps; the rest are sums or the state's
    sums = {i: r for i, r in enumerate(results) if i not in per_step | {2, 3} and needed[i]}
    totals = {i: torch.zeros_like(r, dtype=ops._real(dtype)) for i, r in sums.items()} if len(segments) > 1 else {}
    for k in reversed(range(len(segments))):
        first, end = segments[k]
        h, c = h0, c0
        if k > 0:
            h = output[end] if reverse else output[first - 1]
            if reverse and lengths is not None:  # sequences that do not begin behind this segment begin in it, or later
                h = torch.where((lengths > end).unsqueeze(-1), h, 0 if h0 is None else h0)
            c = None if mode != "LSTM" else marks[k]
        piece = _piece(given, h, c, first, end)
        saved = [part[: end - first] for part in again[:2]]
        gates = again[4][: again[4].numel() // segment * (end - first)]
        ops._run_forward(piece, (*saved, *again[2:4], gates), mode, reverse, True, True)
        into = list(results)
        for i in per_step:
            into[i] = results[i][first:end] if i == 0 and needed[0] else results[i]
        if norms:
            into[8] = torch.empty(2, end - first, batch, dtype=torch.float32)
        more = list(needed)
        if k > 0:
            into[2:4] = output.new_empty(output.shape[1:]), output.new_empty(output.shape[1:], dtype=ops._real(dtype))
            more[2:4] = True, mode == "LSTM"
        if totals:
            for i in sums:
                into[i] = torch.empty_like(results[i])
        pieces = [None if t is None else t[first:end] for t in (d_out, d_cs)]
        ops._run_backward((*pieces, dh, dc), piece, (*saved, gates), into, mode, reverse, more, norms)
        for i, total in totals.items():
            total += into[i]
        if norms:
            results[8][:, first:end] = into[8]
        dh, dc = into[2], into[3] if mode == "LSTM" else None
    for i, total in totals.items():
        results[i].copy_(total)
    return results
