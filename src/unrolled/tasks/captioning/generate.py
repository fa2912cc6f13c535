"""Writing captions: by beam search, or drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unrolled.data.captions import END, PAD, START, UNKNOWN, Vocabulary
from unrolled.decoding import beam_search
from unrolled.tasks.captioning.loss import only_words
from unrolled.tasks.captioning.model import Captioner, Seen

BEAM, LENGTH_POWER = 3, 0.7
"""What `caption` and `evaluate` take unless told otherwise; the recipe's figures are with these."""


class Caption(NamedTuple):
    """A sentence about a photo."""

    text: str
    """In lower case, without punctuation."""
    score: float
    """Log probability divided by (number of tokens, END among them) ** length_power."""
    tokens: list[int]
    """Without START and END."""


@torch.inference_mode()
def write(
    model: Captioner,
    vocabulary: Vocabulary,
    seen: Seen,
    *,
    longest: int,
    beam: int = BEAM,
    captions: int = 1,
    length_power: float = LENGTH_POWER,
    temperature: float | None = None,
    seed: int = 0,
) -> list[list[Caption]]:
    """`captions` sentences for each of N photos, best first; a batch gets what its photos get one at a time.

    Args:
        model: in evaluation mode.
        vocabulary: the run's.
        seen: `model.see` of the photos.
        longest: words of a caption at most.
        beam: unfinished sentences kept at each step; 1 is greedy. As wide as `captions` at least.
        captions: how many for each photo.
        length_power: 0 prefers short captions, 1 takes the mean log probability of a token.
        temperature: draw the captions instead of searching, scores divided by this; 1 is the model as it is.
        seed: of the drawing.

    Raises:
        ValueError: a number below what it can be.
    """
    if captions < 1 or longest < 1 or (temperature is not None and temperature <= 0):
        raise ValueError(
            "expected captions and longest of at least 1 and a temperature above 0, "
            f"got captions={captions}, longest={longest}, temperature={temperature}."
        )
    if temperature is not None:
        drawn = [
            _drawn(model, vocabulary, _one(seen, n), longest, captions, length_power, temperature, seed)
            for n in range(_size(seen))
        ]
        return [sorted(several, key=lambda caption: -caption.score) for several in drawn]
    if not _size(seen):
        return []

    def step(words: Tensor, state: tuple[Seen, list[Tensor]]) -> tuple[Tensor, tuple[Seen, list[Tensor]]]:
        written = model(state[0], words.unsqueeze(1), state[1])
        return written.logits[:, 0], (state[0], written.state)

    found = beam_search(
        step,
        (seen, model.begin(seen)),
        start=START,
        end=END,
        max_length=longest + 1,
        beam=max(beam, captions),
        best=captions,
        length_power=length_power,
        forbidden=(PAD, UNKNOWN),
    )
    return [[Caption(vocabulary.decode(one.tokens), one.score, one.tokens) for one in several] for several in found]


@torch.inference_mode()
def explain(model: Captioner, vocabulary: Vocabulary, seen: Seen, caption: Caption) -> tuple[list[str], Tensor | None]:
    """The words of a caption of one photo, and where the model looked for each: weights (T, P), or None without attention."""
    before = torch.tensor([[START, *caption.tokens]], device=seen.places.device)[:, : len(caption.tokens)]
    weights = model(seen, before).weights if caption.tokens else None
    return vocabulary.tokens(caption.tokens), None if weights is None else weights[0]


def _drawn(
    model: Captioner,
    vocabulary: Vocabulary,
    seen: Seen,
    longest: int,
    captions: int,
    length_power: float,
    temperature: float,
    seed: int,
) -> list[Caption]:
    """Drawn for one photo, from a generator of its own: other photos do not change what it gets."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.rand(longest + 1, captions, 1, generator=generator).to(seen.places.device)
    words, state = torch.full((captions, 1), START, device=seen.places.device), None
    said: list[list[int]] = [[] for _ in range(captions)]
    score, done = [0.0] * captions, [False] * captions
    for t in range(longest + 1):
        written = model(seen, words, state)
        state = written.state
        log_p = torch.log_softmax(only_words(written.logits[:, 0].double()) / temperature, dim=-1)
        below = log_p.exp().cumsum(-1) / log_p.exp().sum(-1, keepdim=True)
        words = (below <= chances[t]).sum(-1, keepdim=True).clamp(max=log_p.shape[-1] - 1)
        for row, word in enumerate(words[:, 0].tolist()):
            if not done[row]:
                score[row] += float(log_p[row, word])
                done[row] = word == END
                if not done[row] and t < longest:
                    said[row].append(word)
        if all(done):
            break
    return [
        Caption(vocabulary.decode(ids), total / (len(ids) + 1) ** length_power, ids)
        for ids, total in zip(said, score, strict=True)
    ]


def _size(seen: Seen) -> int:
    return seen.places.shape[0]


def _one(seen: Seen, n: int) -> Seen:
    return Seen(*(part[n : n + 1] for part in seen))
