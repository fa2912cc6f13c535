"""Labelling of arrays that are in memory, as the training loop sees it: for `unrolled.estimators`."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

import numpy as np
from torch import nn

from unrolled.data.batches import LengthBatches
from unrolled.data.sequences import Sequence
from unrolled.task import Carry, Metric, Processes, Step
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding, Example, Numbering, batch_of
from unrolled.tasks.labelling.generate import generate
from unrolled.tasks.labelling.loss import training_loss
from unrolled.tasks.labelling.measure import measure
from unrolled.tasks.labelling.model import Labeller
from unrolled.tasks.labelling.task import in_one_line


class Task:
    """A labeller of numbers in memory, for `unrolled.training.train`.

    Args:
        config: the settings.
        encoding: the labels, and how the numbers are spread.
        learned: what to learn from.
        measured: what to measure on; may be empty.
    """

    name = "labelling"

    def __init__(self, config: Config, encoding: Encoding, learned: Several[Example], measured: Several[Example]) -> None:
        self.config, self.encoding, self.learned, self.measured = config, encoding, learned, measured
        self.batches = LengthBatches(np.array([len(one.inputs) for one in learned]), config.batch_size, config.seed)
        self.unit = "steps" if config.per == "step" else "sequences"
        self.loss_name = f"nats per {config.per}"
        self.selection = Metric("loss", self.loss_name)
        self.summary = f"{len(learned):,} sequences to learn from, {len(measured):,} to measure on"

    def build(self) -> Labeller:
        return Labeller(self.config, self.encoding)

    def batch(self, step: int) -> dict[str, Any]:
        return batch_of([self.learned[n] for n in self.batches[step]], self.encoding, self.config)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, self.config)  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """`loss`, and of one label `accuracy`; nothing where there is nothing to measure on."""
        if not self.measured:
            return {}
        own = self.measured[processes.index :: processes.count]
        metrics = measure(model, self.encoding, Numbering(self.config, self.encoding.labels), own, processes)  # type: ignore[arg-type]
        return {name: metrics[name] for name in ("loss", "accuracy") if name in metrics}

    def show(self, model: nn.Module, seed: int) -> str:
        model.eval()
        sequence = Sequence("", self.learned[seed % len(self.learned)].inputs)
        return in_one_line(next(generate(model, self.encoding, self.config, [sequence])))  # type: ignore[arg-type]
