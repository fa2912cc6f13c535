"""Translating: by beam search, with length normalisation and coverage, unknown words copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unrolled.beam_search import take_rows
from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.decoder import Memory
from unrolled.decoding import coverage_penalty, decode_sentences, step_function
from unrolled.ensemble import Ensemble
from unrolled.tasks.translation.data import Vocabularies, pad
from unrolled.tasks.translation.model import Translator

SENTENCES_AT_ONCE = 64


class Translation(NamedTuple):
    """A sentence in the other language."""

    text: str
    score: float
    """Log probability / (number of tokens, END among them) ** length_power, and the coverage penalty if there is one."""
    tokens: list[int]
    """Without START and END."""


@torch.inference_mode()
def generate(
    model: Translator | Ensemble,
    vocabularies: Vocabularies,
    sentences: Sequence[str],
    *,
    longest: int,
    beam: int = 5,
    n_best: int = 1,
    length_power: float = 1.0,
    coverage: float = 0.0,
) -> list[list[Translation]]:
    """`n_best` translations of each sentence, best first; what a sentence gets does not depend on the others.

    Where words are the unit, an unknown word is written as the source word that it attends to most.

    Args:
        model: in evaluation mode.
        vocabularies: the run's.
        sentences: without line ends; an empty one has an empty translation. Tokens beyond `longest` are not read.
        longest: tokens of a sentence at most, read or written.
        beam: width of the beam search, `n_best` at least; 1 is greedy.
        n_best: how many for each sentence.
        length_power: log P is divided by length ** length_power.
        coverage: weight of `decoding.coverage_penalty`; 0 for none.

    Raises:
        ValueError: a number below what it can be.
    """
    if n_best < 1:
        raise ValueError(f"expected n_best of at least 1, got {n_best}.")
    found: list[list[Translation]] = [[Translation("", 0.0, [])]] * len(sentences)
    ids = [vocabularies.source.encode(sentence)[:longest] for sentence in sentences]
    order = sorted((n for n, one in enumerate(ids) if one), key=lambda n: len(ids[n]))
    copies = vocabularies.target.unit == "word" and model.members[0].attention is not None
    device = next(model.parameters()).device
    for begin in range(0, len(order), SENTENCES_AT_ONCE):
        chosen = order[begin : begin + SENTENCES_AT_ONCE]
        source = pad([*ids[n], END] for n in chosen).to(device)
        encoded = model.encode(source)
        mask = source != PAD
        step, state = step_function(model, encoded, torch.zeros_like(mask, dtype=torch.float32) if coverage else None)
        several = decode_sentences(
            step,
            state,
            start=START,
            end=END,
            pad=PAD,
            forbidden=[] if copies else [UNKNOWN],
            max_length=longest + 1,
            beam=beam,
            number=n_best,
            length_power=length_power,
            penalty=(lambda state, mask=mask: coverage_penalty(state[2], mask[state[0]], coverage)) if coverage else None,
        )
        for row, (n, hypotheses) in enumerate(zip(chosen, several, strict=True)):
            one = take_rows(encoded, torch.tensor([row], device=device)) if copies else None
            found[n] = [
                Translation(_text(model, vocabularies, one, sentences[n], len(ids[n]), each.tokens), each.score, each.tokens)
                for each in hypotheses
            ]
    return found


def _text(
    model: Translator | Ensemble, vocabularies: Vocabularies, encoded: Any, sentence: str, read: int, tokens: list[int]
) -> str:
    """The tokens as text, unknown ones copied from the `read` words of the source, where `encoded`, of this sentence alone, is
    given.
    """
    if encoded is None or UNKNOWN not in tokens:
        return vocabularies.target.decode(tokens)
    words = vocabularies.source.pieces(sentence)
    places = _weights(model, encoded, tokens)[:, :read].argmax(-1).tolist()  # END is not copied
    return vocabularies.target.decode(tokens, [words[place] for place, i in zip(places, tokens, strict=True) if i == UNKNOWN])


@torch.inference_mode()
def attention_of(
    model: Translator | Ensemble, vocabularies: Vocabularies, sentence: str, translation: Translation, longest: int
) -> tuple[list[str], list[str], Tensor | None]:
    """The tokens of a sentence and of its translation, END last in both, and the weights (target, source); None without
    attention.
    """
    ids, end = vocabularies.source.encode(sentence)[:longest], "<end>"
    source = [*vocabularies.source.pieces(sentence)[: len(ids)], end]
    target = [*(vocabularies.target.decode([i], ["<unknown>"]) for i in translation.tokens), end]
    if model.members[0].attention is None:
        return source, target, None
    device = next(model.parameters()).device
    encoded = model.encode(pad([[*ids, END]]).to(device))
    return source, target, _weights(model, encoded, [*translation.tokens, END])


def _weights(model: Translator | Ensemble, encoded: Memory | list[Memory], tokens: list[int]) -> Tensor:
    """The attention weights (T, P) with which each of the tokens was written, of one encoded sentence."""
    device = next(model.parameters()).device
    weights = model(encoded, torch.tensor([[START, *tokens[:-1]]], device=device)).weights
    assert weights is not None
    return weights[0]
