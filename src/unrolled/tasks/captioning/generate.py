"""Writing captions: by beam search, by consensus, or sampled."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.data.sentences import END, PAD, START, UNKNOWN, SentenceTokenizer
from unrolled.decoding import decode_sentences, step_function
from unrolled.ensemble import Ensemble
from unrolled.metrics import CiderReward
from unrolled.tasks.captioning.model import Captioner

LENGTH_POWER, LIKELIHOOD_WEIGHT = 0.7, 0.3
"""Of `decode_sentences`. Chosen on Flickr8k's dev list."""


class Caption(NamedTuple):
    """A sentence about a photo."""

    text: str
    """In lower case, without punctuation."""
    score: float
    """Log probability / (number of tokens, END among them) ** 0.7; with `consensus`, the CIDEr agreement + 0.3 of that."""
    tokens: list[int]
    """Without START and END."""


@torch.inference_mode()
def generate(
    model: Captioner | Ensemble,
    tokenizer: SentenceTokenizer,
    photos: Any,
    *,
    longest: int,
    beam: int = 3,
    captions: int = 1,
    consensus: int = 0,
    cider: CiderReward | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> list[list[Caption]]:
    """`captions` sentences for each of N photos, best first; a batch gets what its photos get one at a time.

    Args:
        model: in evaluation mode.
        tokenizer: the run's.
        photos: `model.encode` of their features.
        longest: words of a caption at most.
        beam: width of the beam search, `captions` at least; 1 is greedy.
        captions: how many for each photo.
        consensus: how many to sample for each photo, to rank what the search found by its agreement with them
            (`decoding.consensus`); 0 ranks by likelihood.
        cider: the measure of agreement, which `consensus` needs.
        temperature: sample the captions instead of searching, logits divided by this.
        seed: of sampling.

    Raises:
        ValueError: a number below what it can be, or `consensus` without `cider`.
    """
    step, state = step_function(model, photos)
    found = decode_sentences(
        step,
        state,
        start=START,
        end=END,
        pad=PAD,
        forbidden=[UNKNOWN],
        max_length=longest + 1,
        beam=beam,
        number=captions,
        length_power=LENGTH_POWER,
        samples=consensus,
        agreement=cider and cider.agreement,
        likelihood_weight=LIKELIHOOD_WEIGHT,
        temperature=temperature,
        seed=seed,
    )
    return [[Caption(tokenizer.decode(one.tokens), one.score, one.tokens) for one in several] for several in found]


@torch.inference_mode()
def attention_of(
    model: Captioner | Ensemble, tokenizer: SentenceTokenizer, photo: Any, caption: Caption
) -> tuple[list[str], Tensor | None]:
    """The words of a caption of one encoded photo, and the attention weights of each, (T, P), or None without attention."""
    before = torch.tensor([[START, *caption.tokens[:-1]]], device=next(model.parameters()).device)
    weights = model(photo, before).weights if caption.tokens else None
    return [tokenizer.decode([token]) for token in caption.tokens], None if weights is None else weights[0]
