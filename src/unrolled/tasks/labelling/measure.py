"""What evaluation measures: how many labels are right, step by step, and as segments or named spans where labels are such."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import torch

from unrolled import label_metrics
from unrolled.errors import DataError
from unrolled.task import Processes
from unrolled.tasks.labelling.data import UNLABELLED, Encoding, Example, Numbering, batch_of
from unrolled.tasks.labelling.generate import in_batches, predict
from unrolled.tasks.labelling.loss import total_nats
from unrolled.tasks.labelling.model import Labeller


def measure(
    model: Labeller,
    encoding: Encoding,
    numbering: Numbering,
    examples: Iterable[Example],
    processes: Processes | None = None,
    unseen: int = 0,
) -> dict[str, Any]:
    """`loss` in nats per step (or per sequence), and

    - of one label: `accuracy`, `macro_f1`, `per_label` and `confusion`; of BIO tags also `entity_f1`; of numbers, audio and
      video, per step, the segments' `edit` and `f1_10`, `f1_25`, `f1_50`; `unseen_labels`, those that training never had,
      which count as wrong and are in no loss, so that where there are no others there is none;
    - of several at once: `frame_nll`, `precision`, `recall`.

    Args:
        model: any mode.
        encoding: the run's.
        numbering: of the examples' labels.
        examples: those of this process.
        processes: all of which get the same figures.
        unseen: of several labels at once, how many true ones the examples do not have, for training never had them.

    Raises:
        DataError: no label in all the examples.
    """
    model.eval()
    config, known = numbering.config, len(encoding.labels)
    processes = processes or Processes()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    truth: list[np.ndarray] = []
    found: list[np.ndarray] = []
    for chosen in in_batches(examples, lambda example: len(example.inputs)):
        if config.multi:
            unseen += sum(int(example.labels[..., known:].sum()) for example in chosen)
            chosen = [example._replace(labels=example.labels[..., :known]) for example in chosen]
        batch = {name: one.to(device) for name, one in batch_of(chosen, encoding, config).items()}
        batch["labels"] = batch["labels"] if config.multi else batch["labels"].where(batch["labels"] < known, UNLABELLED)
        prediction = predict(model, batch, config)
        with torch.inference_mode():
            nats, units = total_nats(model, prediction.scores, batch, config)
        total, count = total + float(nats), count + units
        said = (prediction.scores if config.multi else prediction.labels).cpu().numpy()
        for row, example in enumerate(chosen):
            truth.append(example.labels if config.per == "step" else example.labels[None])
            found.append(said[row, : len(example.inputs)] if config.per == "step" else said[row][None])
    gathered = processes.gather((total, count, truth, found, unseen))
    totals, counts, truths, founds, unseens = zip(*gathered, strict=True)
    truth, found = [one for part in truths for one in part], [one for part in founds for one in part]
    if config.multi:
        scores = label_metrics.multi_scores(np.concatenate(truth), np.concatenate(found), unseen=sum(unseens))
        return {"loss": sum(totals) / sum(counts), **scores}
    names = np.array(numbering.names, dtype=object)
    labelled = [one != UNLABELLED for one in truth]
    true = [names[one[mask]].tolist() for one, mask in zip(truth, labelled, strict=True) if mask.any()]
    said = [names[one[mask]].tolist() for one, mask in zip(found, labelled, strict=True) if mask.any()]
    if not true:
        raise DataError("expected labels to compare with, got steps without any.")
    scores = scores_of(true, said, encoding, per_step=config.per == "step")
    return {**({"loss": sum(totals) / sum(counts)} if sum(counts) else {}), **scores}


def scores_of(true: list[list[str]], said: list[list[str]], encoding: Encoding, *, per_step: bool) -> dict[str, Any]:
    """The figures of one label at a step, from the labels of sequences and those that were found."""
    every, predicted = list(chain.from_iterable(true)), list(chain.from_iterable(said))
    metrics: dict[str, Any] = {
        "accuracy": label_metrics.accuracy(every, predicted),
        "macro_f1": label_metrics.macro_f1(every, predicted),
    }
    if per_step and label_metrics.is_bio(encoding.labels):
        metrics |= label_metrics.entity_scores(true, said)
    if per_step and encoding.kind in ("numbers", "audio", "video"):
        metrics |= label_metrics.segment_scores(true, said)
    labels, counts = label_metrics.confusion(every, predicted)
    metrics["per_label"] = label_metrics.per_label(every, predicted)
    metrics["confusion"] = {
        label: {other: int(number) for other, number in zip(labels, row, strict=True) if number}
        for label, row in zip(labels, counts, strict=True)
        if row.any()
    }
    if never := label_metrics.never_seen(every, encoding.labels):
        metrics["unseen_labels"] = never
    return metrics
