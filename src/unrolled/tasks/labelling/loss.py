"""The loss in training, and what evaluation measures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from unrolled.task import Step
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import UNLABELLED
from unrolled.tasks.labelling.model import Labeller


def training_loss(model: Labeller, batch: dict[str, Tensor], config: Config) -> Step:
    """-log P of the labels in nats, a mean over the steps that have one; per sequence over the sequences."""
    nats, count = total_nats(model, model(batch).scores, batch, config)
    return Step(nats / max(1, count), max(1, count))


def total_nats(model: Labeller, scores: Tensor, batch: dict[str, Tensor], config: Config) -> tuple[Tensor, int]:
    """The sum of -log P over the labelled steps or sequences, each times its weight if the batch has `weights`, and how many
    these are.

    One label: softmax, or with `crf` of the whole sequence, of which the first step's weight counts. Several at once: each its
    own sigmoid, summed over the labels of a step.
    """
    labels, scores, weights = batch["labels"], scores.float(), batch.get("weights")
    inside = (
        torch.arange(labels.shape[1], device=scores.device) < batch["lengths"].unsqueeze(1) if config.per == "step" else None
    )
    if config.multi:
        chosen, scores = (labels, scores) if inside is None else (labels[inside], scores[inside])
        nats = binary_cross_entropy_with_logits(scores, chosen.float(), reduction="none").sum(-1)
        if weights is not None:
            nats = nats * (weights if inside is None else weights[inside])
        return nats.sum(), len(chosen)
    count = int((labels != UNLABELLED).sum())
    if model.crf is not None and inside is not None:
        rows = ((labels != UNLABELLED) | ~inside).all(1)  # of others not all is known, so the whole has no probability
        log_p = model.crf.log_likelihood(scores[rows], labels[rows], batch["lengths"][rows])
        if weights is not None:
            log_p = log_p * weights[rows, 0]
        return -log_p.sum(), int(inside[rows].sum())
    reduction = "sum" if weights is None else "none"
    nats = cross_entropy(scores.flatten(0, -2), labels.flatten(), ignore_index=UNLABELLED, reduction=reduction)
    return nats if weights is None else (nats * weights.flatten()).sum(), count
