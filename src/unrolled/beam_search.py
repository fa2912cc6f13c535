"""Beam search: the likeliest sentences that a model of the next token can write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from unrolled.errors import NotFiniteError

State = TypeVar("State")


class Hypothesis(NamedTuple):
    """One sentence that decoding found."""

    tokens: list[int]
    """Without START and END."""
    score: float
    """log P(tokens, END) / (number of tokens, END among them) ** length_power, and the `penalty`; `consensus` adds agreement to
    a share of it."""
    ended: bool
    """Whether it came to its END; else it was truncated at max_length."""


@torch.no_grad()
def beam_search(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    state: State,
    *,
    start: int,
    end: int,
    max_length: int,
    beam: int = 3,
    best: int = 1,
    length_power: float = 0.0,
    forbidden: Sequence[int] = (),
    penalty: Callable[[State], Tensor] | None = None,
) -> list[list[Hypothesis]]:
    """The likeliest sentences for each of B inputs: beam search with length normalisation.

    Sutskever, Vinyals and Le 2014, section 3.2: every unfinished sentence is continued by every token, and of all continuations
    the likeliest `beam` count. Those that end in END are finished; the likeliest `beam` that do not are continued. The search
    stops when none can become better than the `best` that are finished; once `beam` are, when none is better by what it has
    said so far, at its length so far. Finished sentences are ranked by log P / length ** length_power (Wu et al. 2016,
    eq. 14, without its constant). A sentence truncated at `max_length` comes
    after those that ended. A batch gives what its rows give one at a time, as long as `step` treats rows independently.

    Args:
        step: (tokens (N,), state) -> (logits (N, V), next state).
        state: before START: tensors with B rows in axis 0, alone or in tuples, lists and dicts. What a decoder needs beside its
            hidden state, such as the features of its image, belongs in here too.
        start, end: START is the first token that `step` sees, and is never predicted; END ends a sentence.
        max_length: how many tokens at most, END among them.
        beam: how many unfinished sentences are carried for each input; 1 is greedy.
        best: how many sentences to return for each input, at most `beam`.
        length_power: 0 ranks by probability, which favours short sentences; 1 by mean log probability per token.
        forbidden: ids that are never predicted, such as PAD and UNKNOWN.
        penalty: of the state after END, (N,), at most 0: added to the scores of finished sentences, such as
            `decoding.coverage_penalty`.

    Returns:
        For each input its `best` sentences, best first; fewer if there are not so many.

    Raises:
        ValueError: beam, best or max_length below 1, best above beam, length_power below 0, or logits that are NaN.

    >>> import torch
    >>> bigrams = torch.tensor([[0, 0, 0.6, 0.4], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0]])  # 0 is START, 1 is END
    >>> found = beam_search(lambda tokens, state: (bigrams[tokens].log(), state), torch.zeros(1, 0),
    ...     start=0, end=1, max_length=5, beam=3, best=3)
    >>> [(sentence.tokens, round(sentence.score, 3)) for sentence in found[0]]
    [([2], -0.511), ([3], -1.609), ([3, 2], -1.609)]
    """
    if min(beam, best, max_length) < 1 or best > beam or length_power < 0:
        raise ValueError(
            "beam_search expected beam, best and max_length of at least 1, best of at most beam, length_power of at least 0, "
            f"got beam={beam}, best={best}, max_length={max_length}, length_power={length_power}."
        )
    batch, device = rows_of(state)
    done: list[list[Hypothesis]] = [[] for _ in range(batch)]
    searching = list(range(batch))  # each has `width` rows of the tensors below, next to each other
    width, score = 1, torch.zeros(batch, 1, device=device)  # (searching, width): log P so far
    said = torch.full((batch, 1), start, device=device)  # (searching * width, 1 + tokens so far)
    never = torch.tensor([start, *forbidden], device=device)
    for length in range(1, max_length + 1):
        logits, state = step(said[:, -1], state)
        if logits.isnan().any():
            raise NotFiniteError("expected logits to choose from, got NaN: the model's weights or its input are not finite.")
        log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        log_p = log_p.index_fill(-1, never, -torch.inf)
        vocabulary = log_p.shape[-1]
        total = (score.flatten()[:, None] + log_p).view(len(searching), width * vocabulary)
        likely, choice = total.topk(min(2 * beam, width * vocabulary))  # `beam` may END, and `beam` others go on
        row = choice // vocabulary + width * torch.arange(len(searching), device=device)[:, None]
        token = choice % vocabulary
        ends = (token == end) & likely.isfinite()
        added = penalty(state) if penalty and ends.any() else None
        for place, k in ends[:, :beam].nonzero().tolist():
            tokens, normalised = said[row[place, k], 1:].tolist(), likely[place, k].item() / length**length_power
            more = 0.0 if added is None else added[row[place, k]].item()
            done[searching[place]].append(Hypothesis(tokens, normalised + more, True))
        score, kept = likely.masked_fill(token == end, -torch.inf).topk(min(beam, likely.shape[1]))
        width = kept.shape[1]
        row, token = row.gather(1, kept), token.gather(1, kept)  # (searching, width)
        said = torch.cat([said[row], token[..., None]], dim=-1)  # (searching, width, 1 + length)
        if length == max_length:
            _add_truncated(done, searching, said[..., 1:], score / length**length_power)
            break
        likeliest = score[:, 0].tolist()
        going = []
        for place, log_p_so_far in enumerate(likeliest):
            found = done[searching[place]]
            # Until `beam` are finished: if all else the likeliest says were certain. Then: if it goes on as it has begun.
            farthest = max_length if len(found) < beam else length
            if _can_improve(found, log_p_so_far / farthest**length_power, best):
                going.append(place)
        if not going:
            break
        searching = [searching[place] for place in going]
        score, said, row = score[going], said[going].flatten(0, 1), row[going].flatten()
        state = take_rows(state, row)
    return [sorted(found, key=lambda one: (not one.ended, -one.score))[:best] for found in done]


def rows_of(state: Any) -> tuple[int, torch.device]:
    """How many rows the tensors of a state have in axis 0, and their device."""
    while not isinstance(state, Tensor):
        state = next(iter(state.values() if isinstance(state, dict) else state))
    return state.shape[0], state.device


def take_rows(state: Any, rows: Tensor) -> Any:
    """These rows of every tensor of a state: tensors alone or in tuples, lists and dicts, where None stays None."""
    if state is None or isinstance(state, Tensor):
        return None if state is None else state.index_select(0, rows)
    if isinstance(state, dict):
        return {name: take_rows(part, rows) for name, part in state.items()}
    parts = [take_rows(part, rows) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)  # a NamedTuple takes them one by one


def _can_improve(done: list[Hypothesis], bound: float, best: int) -> bool:
    if bound == -torch.inf:
        return False
    return len(done) < best or bound > sorted((one.score for one in done), reverse=True)[best - 1]


def _add_truncated(done: list[list[Hypothesis]], searching: list[int], said: Tensor, score: Tensor) -> None:
    for sentence, tokens, scores in zip(searching, said.tolist(), score.tolist(), strict=True):
        done[sentence] += [Hypothesis(*one, False) for one in zip(tokens, scores, strict=True) if one[1] > -torch.inf]
