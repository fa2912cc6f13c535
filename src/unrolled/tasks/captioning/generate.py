"""Writing captions: by beam search, by consensus, or drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.data.sentences import END, PAD, START, UNKNOWN, SentenceTokenizer
from unrolled.decoding import beam_search
from unrolled.metrics import CiderReward
from unrolled.tasks.captioning.model import Captioner, Ensemble, Seen, SeenByAll

LENGTH_POWER, LIKELIHOOD = 0.7, 0.3
"""What `caption` and `evaluate` take: of beam search, and what a sentence's likelihood counts beside its agreement. Chosen on
Flickr8k's dev list."""


class Caption(NamedTuple):
    """A sentence about a photo."""

    text: str
    """In lower case, without punctuation."""
    score: float
    """Log probability divided by (number of tokens, END among them) ** length_power; with `consensus` 0.3 of that and the
    agreement."""
    tokens: list[int]
    """Without START and END."""


@torch.inference_mode()
def write(
    model: Captioner | Ensemble,
    tokenizer: SentenceTokenizer,
    seen: Seen | SeenByAll,
    *,
    longest: int,
    beam: int = 3,
    captions: int = 1,
    length_power: float = LENGTH_POWER,
    consensus: int = 0,
    judge: CiderReward | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> list[list[Caption]]:
    """`captions` sentences for each of N photos, best first; a batch gets what its photos get one at a time.

    The likeliest sentence is often a bland one. With `consensus`, the sentences of the search are put in the order of their
    mean CIDEr to so many drawn ones, and a little of their likelihood: the one closest to all that the model might say comes
    first (minimum Bayes risk decoding; Kumar and Byrne 2004, with CIDEr for the loss).

    Args:
        model: in evaluation mode.
        tokenizer: the run's.
        seen: `model.see` of the photos.
        longest: words of a caption at most.
        beam: unfinished sentences kept at each step; 1 is greedy. As wide as `captions` at least.
        captions: how many for each photo.
        length_power: 0 prefers short captions, 1 takes the mean log probability of a token.
        consensus: how many to draw for each photo to compare with; 0 takes the likeliest.
        judge: what compares; `consensus` needs it.
        temperature: draw the captions instead of searching, scores divided by this; 1 is the model as it is.
        seed: of the drawing.

    Raises:
        ValueError: a number below what it can be, or `consensus` without a judge.
    """
    if captions < 1 or longest < 1 or consensus < 0 or (temperature is not None and temperature <= 0):
        raise ValueError(
            "expected captions and longest of at least 1, consensus of at least 0 and a temperature above 0, "
            f"got captions={captions}, longest={longest}, consensus={consensus}, temperature={temperature}."
        )
    if not seen.photos:
        return []
    if temperature is not None:
        drawn = _drawn(model, seen, longest, captions, temperature, seed)
        likely = _log_p(model, seen, drawn) / ((drawn != PAD).sum(-1) ** length_power)
        several = [
            [Caption(tokenizer.decode(row), score, _spoken(row)) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in zip(drawn.tolist(), likely.tolist(), strict=True)
        ]
        return [sorted(some, key=lambda caption: -caption.score) for some in several]
    ranked = _searched(model, tokenizer, seen, longest, max(beam, captions), length_power)
    if consensus:
        if judge is None:
            raise ValueError("consensus expected a judge to compare sentences with, got none.")
        for n, rows in enumerate(_drawn(model, seen, longest, consensus, 1.0, seed).tolist()):
            scores = judge.agreement([one.tokens for one in ranked[n]], [_spoken(row) for row in rows]).tolist()
            agreeing = [
                one._replace(score=score + LIKELIHOOD * one.score) for one, score in zip(ranked[n], scores, strict=True)
            ]
            ranked[n] = sorted(agreeing, key=lambda caption: -caption.score)
    return [some[:captions] for some in ranked]


@torch.inference_mode()
def explain(
    model: Captioner | Ensemble, tokenizer: SentenceTokenizer, seen: Seen | SeenByAll, caption: Caption
) -> tuple[list[str], Tensor | None]:
    """The words of a caption of one photo, and where the model looked for each: weights (T, P), or None without attention."""
    before = torch.tensor([[START, *caption.tokens]], device=seen.device)[:, : len(caption.tokens)]
    weights = model(seen, before).weights if caption.tokens else None
    return [tokenizer.decode([token]) for token in caption.tokens], None if weights is None else weights[0]


def draw(model: Captioner | Ensemble, seen: Seen | SeenByAll, chances: Tensor, temperature: float = 1.0) -> Tensor:
    """Sentences of N photos, drawn word by word: (N, g, T) ids, PAD behind END.

    Args:
        model: in evaluation mode.
        seen: `model.see` of the photos.
        chances: (T, N, g), uniform from 0 to 1: each word is where its chance falls when the words' probabilities are laid end
            to end.
        temperature: scores are divided by this.
    """
    steps, photos, width = chances.shape
    device = seen.device
    words = torch.full((photos * width, steps), PAD, device=device)
    rows = torch.arange(len(words), device=device)  # those still written, as many for each photo
    said, state = torch.full((len(words), 1), START, device=device), None
    done = torch.zeros_like(said, dtype=torch.bool)
    for t, chance in enumerate(chances.to(device).reshape(steps, -1, 1)):
        written = model(seen, said, state)
        state = written.state
        said = _pick(only_words(written.logits[:, 0].float()) / temperature, chance[rows]).masked_fill(done, PAD)
        words[rows, t] = said[:, 0]
        done = done | (said == END)
        most = int((~done).view(photos, width).sum(1).max())
        if not most:
            return words[:, : t + 1].view(photos, -1, t + 1)
        if most < width:  # of each photo the unfinished, and where it has fewer, finished ones
            first = done.view(photos, width).byte().argsort(dim=1, stable=True)[:, :most]
            kept = (first + width * torch.arange(photos, device=device).unsqueeze(1)).flatten()
            rows, said, done, state, width = rows[kept], said[kept], done[kept], [part[kept] for part in state], most
    return words.view(photos, -1, steps)


def only_words(logits: Tensor) -> Tensor:
    """Logits (..., V) that leave no chance to what is never written."""
    never = torch.tensor([PAD, START, UNKNOWN], device=logits.device)
    return logits.index_fill(-1, never, -torch.inf)


def _pick(logits: Tensor, chance: Tensor) -> Tensor:
    """The word (B, 1) on which a chance (B, 1) falls."""
    reached = torch.softmax(logits, dim=-1).cumsum(-1)
    word = torch.searchsorted(reached, chance * reached[:, -1:], right=True)
    return word.clamp(max=logits.shape[-1] - 1)


def _drawn(
    model: Captioner | Ensemble, seen: Seen | SeenByAll, longest: int, captions: int, temperature: float, seed: int
) -> Tensor:
    """`draw` with the same chances for every photo: what one gets does not depend on which others come with it."""
    chances = torch.rand(longest + 1, 1, captions, generator=torch.Generator().manual_seed(seed))
    return draw(model, seen, chances.expand(-1, seen.photos, -1), temperature)


def _log_p(model: Captioner | Ensemble, seen: Seen | SeenByAll, drawn: Tensor) -> Tensor:
    """log P of whole sentences (N, g, T): (N, g)."""
    flat = drawn.flatten(0, 1)
    before = torch.cat([torch.full_like(flat[:, :1], START), flat[:, :-1]], dim=1)
    log_p = torch.log_softmax(only_words(model(seen, before).logits.float()), dim=-1)
    return (log_p.gather(-1, flat.unsqueeze(-1)).squeeze(-1).masked_fill(flat == PAD, 0.0)).sum(-1).view(drawn.shape[:2])


def _spoken(row: list[int]) -> list[int]:
    """The tokens of a drawn sentence without END and what follows."""
    return [token for token in row if token not in (PAD, END)]


def _searched(
    model: Captioner | Ensemble,
    tokenizer: SentenceTokenizer,
    seen: Seen | SeenByAll,
    longest: int,
    beam: int,
    length_power: float,
) -> list[list[Caption]]:
    """All that a search of this width finds for each photo, likeliest first."""
    kept = torch.arange(seen.photos, device=seen.device)

    # A photo's sentences stand together, as many for each; so the search carries the photos' numbers, and what was seen of a
    # photo is copied only when other photos are through.
    def step(words: Tensor, state: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
        nonlocal kept, seen
        photos = state[0].unique_consecutive()
        if len(photos) < len(kept):
            seen = seen.take(torch.isin(kept, photos))
            kept = photos
        written = model(seen, words.unsqueeze(1), state[1])
        return written.logits[:, 0], (state[0], written.state)

    found = beam_search(
        step,
        (kept, model.begin(seen)),  # type: ignore[arg-type]  # the model's own kind of Seen
        start=START,
        end=END,
        max_length=longest + 1,
        beam=beam,
        best=beam,
        length_power=length_power,
        forbidden=(PAD, UNKNOWN),
    )
    return [[Caption(tokenizer.decode(one.tokens), one.score, one.tokens) for one in several] for several in found]
