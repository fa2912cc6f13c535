"""Sequences of unequal lengths with resets inside, laid out as a `PackedSequence` lays out sequences.

A sequence is cut at its resets into segments; the segments are laid side by side as if each were a sequence, the longest
first, step by step. For the second direction they are laid out from their ends.

    h_t of a segment starts from h_0 if the segment begins its sequence, from zeros (or a learned state) if a reset does
    h_n of a sequence is its last segment's
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PackedSegments(NamedTuple):
    """Where the steps of a batch (T, B) stand when its segments are laid out side by side, the longest first."""

    rows: Tensor
    """(N,) every step that is computed, as a row of x.view(T * B, ...)."""
    batch_sizes: Tensor
    """How many segments have a first step, a second, and so on; int64 on the CPU, as PyTorch's operators want it."""
    owner: Tensor
    """(segments,) the sequence that the segment is of."""
    carries: Tensor
    """(segments, 1) whether the segment goes on from h_0 of its sequence, rather than from zeros."""
    last: Tensor
    """(B,) the segment that each sequence ends with; 0 where it has no step."""
    started: Tensor
    """(B, 1) whether the sequence has a step."""


def pack_segments(
    steps: int, lengths: Tensor | None, resets: Tensor | None, reverse: bool, device: torch.device
) -> PackedSegments:
    """Cut a batch of sequences of up to T = `steps` steps; lengths (B,), not all 0, or resets (T, B), or both given.

    Made on the CPU, where PyTorch's operators want `batch_sizes`, with one wait for resets of another device.
    """
    if lengths is None:
        assert resets is not None
        lengths = torch.full((resets.shape[1],), steps, dtype=torch.int64, device="cpu")
    lengths, B = lengths.cpu(), lengths.shape[0]
    read = torch.arange(steps, device="cpu").expand(B, steps)  # (B, T): a sequence's steps in the order they are read
    alive = read < lengths[:, None]
    t = (lengths[:, None] - 1 - read).clamp_(min=0) if reverse else read
    reset = torch.zeros(B, steps, dtype=torch.bool, device="cpu") if resets is None else resets.cpu().t().gather(1, t)
    begins = ((read == 0) | reset) & alive
    first = begins.flatten().nonzero().squeeze(1)  # where segments begin in (B * T)
    owner, begin = first // steps, first % steps
    carries = ~reset.flatten()[first]
    last = begins.sum(1).cumsum(0) - 1  # each sequence's last segment, if it has one
    stop = torch.where(torch.arange(len(first), device="cpu") == last[owner], lengths[owner], begin.roll(-1))
    sizes, order = (stop - begin).sort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device="cpu")
    batch_sizes = len(sizes) - torch.bincount(sizes).cumsum(0)[:-1]
    # Row n of the packed batch is step `place` of the segment of rank n - offset: where it comes from, step by step.
    place = torch.arange(len(batch_sizes), device="cpu").repeat_interleave(batch_sizes)
    offset = batch_sizes.cumsum(0) - batch_sizes
    of = torch.arange(len(place), device="cpu") - offset[place]
    owner, carries, begin = owner[order], carries[order], begin[order]
    at = begin[of] + place
    if reverse:
        at = lengths[owner[of]] - 1 - at
    started = lengths > 0
    last = torch.where(started, rank[last.clamp(min=0)], 0)
    there = (part.to(device) for part in (at * B + owner[of], owner, carries[:, None], last, started[:, None]))
    rows, *others = there
    return PackedSegments(rows, batch_sizes, *others)
