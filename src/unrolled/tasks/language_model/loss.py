"""The target is the input moved by one: the loss in training, and the same measured over a whole text."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unrolled import bptt
from unrolled.data.tokenizers import Tokenizer
from unrolled.losses import token_loss
from unrolled.task import Carry, Processes, Step

WARM_UP = 512  # tokens read before the first one counted, where a text is measured in parallel streams


def training_loss(model: nn.Module, batch: dict[str, Any], carry: Carry, characters: np.ndarray | None) -> Step:
    """One window of truncated BPTT: tokens (B, steps + 1), from the carried state to the one where the next begins.

    `batch` is `Task.batch`'s; `characters` (V,) says how many characters each token stands for, None where that has no
    meaning. The loss is the mean over the window's new steps, in nats per token.
    """
    inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    state = None if batch["fresh"] else from_carry(carry)
    if batch["skip"]:  # k2 < k1: these steps only move the state on
        with torch.no_grad():
            _, state = model(inputs[:, : batch["skip"]], state)
        inputs, targets = inputs[:, batch["skip"] :], targets[:, batch["skip"] :]
    logits, state = bptt.window(model, inputs, state, advance=batch["advance"], dim=1)
    new = min(batch["new"], inputs.shape[1])
    loss = token_loss(logits[:, -new:], targets[:, -new:])
    bits = float(loss.detach()) / math.log(2) * _tokens_per_character(targets, characters)
    return Step(loss, targets[:, -new:].numel(), to_carry(state), {} if characters is None else {"bits_per_character": bits})


@torch.inference_mode()
def measure(
    model: nn.Module,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    *,
    streams: int = 32,
    processes: Processes | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Nats per token, perplexity and bits per character over a text: every token after the first is predicted once.

    The text is read in up to `streams` parallel segments. Each but the first starts `WARM_UP` tokens early, uncounted,
    so that its state knows what came before. A character that the vocabulary lacks counts what it takes to spell it, too
    (`Tokenizer.unknown_nats`). tokens (N,), N at least 2. `report` is called with how far each segment is, and
    its length. Several `processes` take some of the segments each. Keys: `loss`, `perplexity`, and, where tokens can be turned
    back into text, `bits_per_character`.
    """
    model.eval()
    device = next(model.parameters()).device
    total = len(tokens) - 1
    streams = max(1, min(streams, total // (4 * WARM_UP)))
    length = math.ceil(total / streams)
    processes = processes or Processes()
    numbers = np.arange(streams)[processes.index :: processes.count]
    starts = np.minimum(numbers * length, total)  # the first input of each segment
    state, nats = None, 0.0
    windows = [*([(-WARM_UP, 0)] if streams > 1 else []), *pairwise([*range(0, length, 256), length])]
    for begin, end in windows if len(numbers) else []:
        steps = np.arange(begin, end)
        positions = starts[:, None] + steps
        counted = (positions < np.minimum(starts + length, total)[:, None]) & (steps >= 0)
        inputs = torch.from_numpy(tokens[positions.clip(0, total - 1)].astype(np.int64)).to(device)
        targets = torch.from_numpy(tokens[positions.clip(0, total - 1) + 1].astype(np.int64)).to(device)
        if begin == 0 and state is not None and numbers[0] == 0:
            # The first segment has nothing before it: what it warmed up on does not count.
            state = _without_first(state)
        logits, state = model(inputs, state)
        losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        nats += float(losses.double()[torch.from_numpy(counted.ravel()).to(device)].sum())
        if report:
            report(max(0, end), length)
    nats = sum(processes.gather(nats)) + int((tokens[1:] == tokenizer.unknown).sum()) * tokenizer.unknown_nats
    loss = nats / total
    metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    characters = tokenizer.characters_per_token()
    if characters is not None and (count := int(characters[tokens[1:]].sum())):
        metrics["bits_per_character"] = nats / math.log(2) / count
    return metrics


def to_carry(state: Any) -> Carry:
    """The layers' state as the named tensors that the loop carries and saves."""
    if state is None:
        return {}
    return dict(zip(("h", "c"), state if isinstance(state, tuple) else (state,), strict=False))


def from_carry(carry: Carry) -> Any:
    if not carry:
        return None
    return (carry["h"], carry["c"]) if "c" in carry else carry["h"]


def _tokens_per_character(targets: Tensor, characters: np.ndarray | None) -> float:
    if characters is None:
        return math.nan
    return targets.numel() / max(1, int(characters[targets.cpu().numpy()].sum()))


def _without_first(state: Any) -> Any:
    parts = [part.clone() for part in (state if isinstance(state, tuple) else (state,))]
    for part in parts:
        part[:, 0] = 0  # (L, B, H): the first stream
    return tuple(parts) if isinstance(state, tuple) else parts[0]
