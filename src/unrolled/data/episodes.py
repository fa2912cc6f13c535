"""Episodes (or documents) of unequal lengths laid end to end, so that no step of a batch is padding.

Padding B sequences to the longest wastes what the shorter ones lack. Laid end to end in B streams nothing is wasted, and
`resets` tells the layers where a new one begins, so that no state, and no gradient, crosses from one into the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def lay_end_to_end(
    episodes: Sequence[Sequence[Tensor]], batch_size: int, steps: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Batches (T, B) of episodes laid end to end in B streams, with the `resets` that the layers take.

    Each stream reads episodes, one whole episode after the other, in an order drawn anew; stream b of one batch goes on where
    it stopped in the batch before, so carry the layers' state from batch to batch and every episode is read as a whole.
    Every episode is given to the stream that is shortest so far; the streams end where the shortest does, and what
    is over at the ends of the others, and a rest shorter than T, is left out of this pass.

    Args:
        episodes: of each its sequences, such as (observations, actions), all with the same first axis, its own length, of
            at least 1.
        batch_size: B, streams side by side.
        steps: T, steps of a batch.
        generator: the order is drawn with it; torch's own when left out.

    Yields:
        (sequences, resets): each sequence (T, B, ...), and booleans (T, B), true at the first step of an episode.

    Raises:
        ValueError: no episodes, an empty one, one whose sequences differ in length, fewer than B of them, or together too
            short for one batch.

    >>> import torch, unrolled
    >>> episodes = [(torch.randn(n, 3), torch.arange(n)) for n in (4, 2, 7, 5, 1, 9)]
    >>> gru, state = unrolled.GRU(3, 8), None
    >>> for (observations, actions), resets in lay_end_to_end(episodes, batch_size=2, steps=5):
    ...     output, state = gru(observations, state, resets=resets)
    >>> output.shape, bool((actions == 0).eq(resets).all())
    (torch.Size([5, 2, 8]), True)
    """
    if batch_size < 1 or steps < 1:
        raise ValueError(f"lay_end_to_end expected batch_size and steps of at least 1, got {batch_size} and {steps}.")
    lengths = [_length(episode, index) for index, episode in enumerate(episodes)]
    if len(lengths) < batch_size:
        raise ValueError(f"lay_end_to_end expected at least batch_size = {batch_size} episodes, got {len(lengths)}.")
    order = torch.randperm(len(lengths), generator=generator).tolist()
    streams: list[list[int]] = [[] for _ in range(batch_size)]
    ends = [0] * batch_size
    for episode in order:
        shortest = ends.index(min(ends))
        streams[shortest].append(episode)
        ends[shortest] += lengths[episode]
    if min(ends) < steps:
        raise ValueError(
            f"lay_end_to_end expected {batch_size} streams of at least steps = {steps}, got {len(lengths)} episodes of "
            f"together {sum(lengths)} steps, the shortest stream of {min(ends)}. Lower batch_size or steps."
        )
    return _batches(episodes, streams, lengths, steps, min(ends))


def _batches(
    episodes: Sequence[Sequence[Tensor]], streams: list[list[int]], lengths: list[int], steps: int, end: int
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    sequences = [
        torch.stack([torch.cat([episodes[e][part] for e in stream])[:end] for stream in streams], dim=1)  # (end, B, ...)
        for part in range(len(episodes[0]))
    ]
    resets = torch.zeros(end, len(streams), dtype=torch.bool)
    for b, stream in enumerate(streams):
        starts = torch.tensor([0, *(lengths[e] for e in stream[:-1])]).cumsum(0)
        resets[starts[starts < end], b] = True
    for begin in range(0, end - steps + 1, steps):
        yield tuple(sequence[begin : begin + steps] for sequence in sequences), resets[begin : begin + steps]


def _length(episode: Sequence[Tensor], index: int) -> int:
    lengths = {len(sequence) for sequence in episode}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"lay_end_to_end expected an episode's sequences to have one length of at least 1, got {sorted(lengths)} in "
            f"episode {index}."
        )
    return lengths.pop()
