"""Labelling sequences, many at a time, those of alike length together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from unrolled.data.sequences import Sequence
from unrolled.errors import NotFiniteError
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.model import Labeller

AT_ONCE, STEPS_AT_ONCE, AHEAD = 64, 20_000, 512
"""Sequences of a batch at most, and their steps with padding, unless a single one has more; sequences that are read ahead."""
Item = TypeVar("Item")


class Labelled(NamedTuple):
    """What a run says of a sequence."""

    sequence: Sequence
    labels: Any
    """Per step list[str] of T, of several at once list[frozenset[str]]; per sequence one of these."""
    probabilities: np.ndarray
    """Of every label: per step (T, L), per sequence (L,). One label at a step: they sum to 1; several: each for itself."""


class Prediction(NamedTuple):
    """Of a batch, as tensors."""

    scores: Tensor
    """As the model gives them, (B, T, L) or (B, L)."""
    labels: Tensor
    """Numbers (B, T) or (B,); of several at once true and false, (B, T, L) or (B, L)."""
    probabilities: Tensor
    """As `scores`."""


@torch.inference_mode()
def predict(model: Labeller, batch: dict[str, Tensor], config: Config) -> Prediction:
    """The most likely label of each step; with a CRF the most likely labels of the whole sequence, and each step's marginal."""
    scores = model(batch).scores.float()
    if config.multi:
        return Prediction(scores, scores > 0, torch.sigmoid(scores))
    if model.crf is not None:
        lengths = batch["lengths"]
        return Prediction(scores, model.crf.decode(scores, lengths), model.crf.marginals(scores, lengths))
    return Prediction(scores, scores.argmax(-1), torch.softmax(scores, -1))


def generate(model: Labeller, encoding: Encoding, config: Config, sequences: Iterable[Sequence]) -> Iterator[Labelled]:
    """The labels of each sequence, in order; what one gets does not depend on the others.

    Args:
        model: in evaluation mode.
        encoding: the run's.
        config: the run's.
        sequences: read some ahead of those that have been given back; one without a step gets no labels.

    Raises:
        DataError: numbers of another width than in training.
        NotFiniteError: as `require_finite`.
    """
    device = next(model.parameters()).device
    names = np.array(encoding.labels, dtype=object)

    def named(labels: np.ndarray) -> Any:
        if config.multi:
            rows = [frozenset(names[row]) for row in labels.reshape(-1, len(names))]
            return rows if labels.ndim == 2 else rows[0]
        return names[labels].tolist() if labels.ndim else names[labels]

    sequences = iter(sequences)
    while waiting := list(islice(sequences, AHEAD)):
        found: dict[int, Labelled] = {}
        for chosen in in_batches(range(len(waiting)), lambda n: len(waiting[n])):
            for n in chosen:
                encoding.require_fit(waiting[n])
            batch = {name: one.to(device) for name, one in encoding.collate([waiting[n].inputs for n in chosen]).items()}
            prediction = predict(model, batch, config)
            labels, probabilities = prediction.labels.cpu().numpy(), prediction.probabilities.cpu().numpy()
            for row, n in enumerate(chosen):
                require_finite(waiting[n].name, probabilities[row])
                own: Any = (row, slice(len(waiting[n]))) if config.per == "step" else row
                found[n] = Labelled(waiting[n], named(np.asarray(labels[own])), probabilities[own])
        for n, sequence in enumerate(waiting):
            empty = Labelled(sequence, [] if config.per == "step" else "", np.zeros((0, len(names)), np.float32))
            yield found.get(n, empty)


def require_finite(name: str, probabilities: np.ndarray) -> None:
    """
    Raises:
        NotFiniteError: what is said of the sequence or step of this name has no probability.
    """
    if not np.isfinite(probabilities).all():
        raise NotFiniteError(
            f"{name}: expected scores to label by, got NaN: its numbers are far larger than those of training, or the model's "
            "weights are damaged."
        )


def in_batches(items: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items of alike length together, some read ahead: each batch has AT_ONCE at most, and padded to the longest STEPS_AT_ONCE
    steps; a longer one is alone. Items without a step are left out.
    """
    items = iter(items)
    while window := list(islice(items, AHEAD)):
        batch: list[Item] = []
        for item in sorted((one for one in window if length(one)), key=length):
            if batch and (len(batch) == AT_ONCE or (len(batch) + 1) * length(item) > STEPS_AT_ONCE):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch
