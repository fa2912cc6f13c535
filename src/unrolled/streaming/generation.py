"""Tokens chosen one after another from what a streamer's decoder scores, each fed back as the next input."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unrolled.streaming import interface


def generate(
    streamer: Any,
    length: int,
    *,
    context: Sequence[int] | Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    forbidden: Sequence[int] = (),
    stop: int | None = None,
) -> list[int]:
    """Up to `length` tokens, each chosen as `unrolled.decoding.choose` chooses, and fed back.

    Starts from the state as it is, after stepping over `context`; calling again goes on where it ended, and chunks of
    any sizes give the same tokens. Fewer than `length` come back when the model chose `stop`, which is not among them.

    Args:
        seed: starts the random numbers (xoshiro256** seeded by splitmix64); None goes on with them, from a seed of
            the operating system's at first. The same seed gives the same tokens on the same machine, precision and
            instruction set.
        forbidden: ids never chosen.

    Raises:
        ValueError: an impossible temperature, top_k or top_p, or an id outside [0, V).
        FloatingPointError: no token can be chosen: the scores are NaN, infinite, or all forbidden.
    """
    streamer.need_tokens()
    streamer.need_decoder()
    if streamer.tokens < streamer.outputs:
        raise ValueError(
            f"Streamer.generate expected every token the decoder can score ({streamer.outputs}) to be one it can read back, "
            f"got an input of {streamer.tokens} tokens."
        )
    if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            "expected temperature of at least 0, top_k of at least 1 and top_p in (0, 1], "
            f"got temperature={temperature}, top_k={top_k}, top_p={top_p}."
        )
    if length < 0:
        raise ValueError(f"Streamer.generate expected a length of at least 0, got {length}.")
    if streamer.batch != 1:
        raise ValueError(f"Streamer.generate expected the state of one sequence, got a batch of {streamer.batch}.")
    banned = checked_ids(list(forbidden), streamer.outputs)
    if stop is not None:
        checked_ids([stop], streamer.outputs)
    if context is not None:
        streamer.feed(context)
    if seed is not None:
        streamer.weights.seed(seed)
    choice = interface.Choice(
        temperature=temperature,
        top_p=top_p or 0.0,
        top_k=min(top_k or 0, 2**62),
        stop=-1 if stop is None else stop,
        forbidden=banned.data_ptr(),
        forbidden_count=banned.numel(),
        threads=torch.get_num_threads(),
    )
    ids = torch.empty(length, dtype=torch.int64, device="cpu")
    count = interface.declared().unrolled_stream_generate(streamer.weights.handle, length, ctypes.byref(choice), ids.data_ptr())
    if count < 0:
        interface.raise_for(count)
    return ids[:count].tolist()


def stream(
    streamer: Any, length: int, *, chunk: int = 16, context: Any = None, seed: int | None = None, **how: Any
) -> Iterator[int]:
    """`generate`, token by token as they come; `chunk` are made at a time."""
    if chunk < 1:
        raise ValueError(f"Streamer.stream expected a chunk of at least 1, got {chunk}.")
    while length > 0:
        asked = min(chunk, length)
        ids = streamer.generate(asked, context=context, seed=seed, **how)
        yield from ids
        if len(ids) < asked:
            return
        length, context, seed = length - asked, None, None


def checked_ids(ids: Sequence[int] | Tensor, limit: int) -> Tensor:
    """Token ids as the engine reads them. ValueError for one outside [0, limit)."""
    tensor = torch.as_tensor(ids, dtype=torch.int64, device="cpu").reshape(-1).contiguous()
    if tensor.numel() and (int(tensor.min()) < 0 or int(tensor.max()) >= limit):
        interface.raise_for_ids(tensor, limit)
    return tensor
