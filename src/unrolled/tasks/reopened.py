"""A trained run with batches to learn from once more: to look at its gradient, not to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import checkpoint
from unrolled.data import sources
from unrolled.errors import DataError, TooShortError
from unrolled.inspection.gradients import Gradients, look
from unrolled.inspection.truncation import Truncation, measure
from unrolled.task import Carry, Rows
from unrolled.tasks import config_class, task_module

Report = Callable[[str, int, int], None]
_BATCH = 16
"""Sequences at a time, at most: enough for means."""


class Reopened:
    """A run's task and its model with the best weights, in evaluation mode: without dropout the gradient is one number's.

    Args:
        run: the folder.
        data: other data than what it was trained on, for tasks whose `Task` has `on_other_data(config, folder, paths)`.
        steps: of a window, for tasks that read a long sequence in windows (`k1`); when left out what it was trained with. Of
            others a sequence is as long as it is.
        batch_size: sequences at a time, at most; fewer where the data have fewer.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of a task that is not installed.
        DataError: the data cannot be read; a `TooShortError` where they have fewer steps.
    """

    def __init__(self, run: str | Path, data: Sequence[str] = (), steps: int | None = None, batch_size: int = _BATCH) -> None:
        self.folder = Path(run)
        name = checkpoint.read_config(self.folder).task
        self.config: Any = checkpoint.open_config(self.folder, name, config_class(name))
        self.windowed = "k1" in type(self.config).model_fields
        """Whether it reads a long sequence window by window, from state to state."""
        self.steps: int = steps or (self.config.k2 or self.config.k1 if self.windowed else 0)
        """Of a window; 0 where sequences are as long as they are."""
        task = task_module(name).Task
        if data and not hasattr(task, "on_other_data"):
            raise DataError(f"{name} is looked into on the data that it was trained on, got {', '.join(data)}. Leave it out.")
        changed = {"k1": self.steps, "k2": None} if self.windowed else {}
        batch_size = min(batch_size, self.config.batch_size)
        while True:
            config = self.config.model_copy(update={**changed, "batch_size": batch_size})
            try:
                self.task = task.on_other_data(config, self.folder, list(data)) if data else task(config, self.folder)
                break
            except TooShortError:
                if batch_size == 1:
                    where = ", ".join(data) or f"{self.folder}'s text"
                    raise TooShortError(
                        f"{where}: expected no more steps than the data have, got {self.steps:,}, which take "
                        f"{2 * self.steps:,} tokens. Ask for fewer (--steps), or give more text."
                    ) from None
                batch_size //= 2  # a short text has no room for many streams
        self.model: nn.Module = checkpoint.load_model(self.folder, self.task.build)
        self.model.eval()

    def losses(self, count: int, begin: int = 0) -> Iterator[tuple[dict[str, Any], Carry, Tensor]]:
        """Batches from number `begin` on, each with the state that it starts from and its loss; the state is carried on."""
        carry: Carry = {}
        for number in range(begin, begin + count):
            made = self.task.batch(number)
            batch = {name: part.rows(slice(len(part))) if isinstance(part, Rows) else part for name, part in made.items()}
            before = carry
            step = self.task.loss(self.model, batch, carry)
            carry = step.carry
            yield batch, before, step.loss

    def loss(self, batches: int = 4) -> Tensor:
        """The mean loss of the first batches."""
        torch.manual_seed(0)  # of tasks that draw: places of glimpses, latent variables
        return torch.stack([loss for _, _, loss in self.losses(batches)]).mean()


def gradients(
    run: str | Path,
    data: Sequence[str] = (),
    *,
    steps: int | None = None,
    layer: str | None = None,
    report: Report | None = None,
) -> tuple[Gradients, dict[str, Any]]:
    """Where the gradient of a trained run goes on its way back through time, and how often training clipped it (`clipped`, a
    share of the steps that metrics.jsonl has).

    Args:
        run: the folder.
        data: other data than it was trained on, see `Reopened`.
        steps: how far to look back.
        layer: the only module to look at.
        report: called with what is being measured, how much of it is done, and the total.

    Raises:
        RunError: as `Reopened`; no recurrence in that layer; weights that are not finite.
        DataError: as `Reopened`; or no sequence has as many steps.
    """
    with _kept(data) as names:
        opened = Reopened(run, names, steps)
        found = look(opened.model, opened.loss, layer, report)
    longest = max(len(flow.left) for flow in found.flows)
    if steps and steps > longest:
        raise DataError(
            f"steps: expected at most {longest:,}, which the longest of {opened.folder}'s sequences has, got {steps:,}."
        )
    norms = [line["gradient_norm"] for line in checkpoint.read_metrics(opened.folder) if "gradient_norm" in line]
    clipped = {"clipped": sum(norm > opened.config.clip_norm for norm in norms) / len(norms)} if norms else {}
    return found.within(steps) if steps else found, clipped


def truncation(
    run: str | Path, data: Sequence[str] = (), *, steps: int | None = None, report: Report | None = None
) -> Truncation:
    """How far a truncated gradient of a trained run is from the full one, for each k2.

    Args:
        run: the folder.
        data: other data than it was trained on, see `Reopened`.
        steps: how far the full gradient goes back, of a run that reads a long sequence in windows; when left out 256, or four
            times its k2, or what the data have.
        report: called with what is being measured, how much of it is done, and the total.

    Raises:
        RunError: as `Reopened`; no layer that could be truncated; weights that are not finite.
        DataError: as `Reopened`; or steps for a run whose sequences are as long as they are.
    """
    with _kept(data) as names:
        return _truncation(run, names, steps, report)


def _truncation(run: str | Path, data: Sequence[str], steps: int | None, report: Report | None) -> Truncation:
    try:
        opened = Reopened(run, data, steps)
    except TooShortError:
        if steps:
            raise
        opened = _longest(run, data, 256)
    own, k1 = (opened.config.k2 or opened.config.k1, opened.config.k1) if opened.windowed else (None, None)
    if steps and not opened.windowed:
        raise DataError(
            f"steps: expected none, as {opened.folder}'s sequences are as long as they are, got {steps:,}. Leave it out."
        )
    if opened.windowed and steps is None:
        opened = _longest(run, data, max(256, 4 * (own or 1)))
    return measure(opened.model, opened.loss, own, k1, report)


def _longest(run: str | Path, data: Sequence[str], steps: int) -> Reopened:
    """With windows of so many steps, or half as many, and so on, as the data allow."""
    while True:
        try:
            return Reopened(run, data, steps)
        except TooShortError:
            if steps < 4:
                raise
            steps //= 2


@contextmanager
def _kept(data: Sequence[str]) -> Iterator[list[str]]:
    """The names, in place of a pipe's that of a file with its content: it is read more than once."""
    with TemporaryDirectory(prefix="unrolled-") as folder:
        names, piped = [], {}
        for number, name in enumerate(data, 1):
            if sources.kind_of(name) == "pipe":
                file = Path(folder) / f"{number}-{'standard-input' if name == '-' else Path(name).name}"
                file.write_bytes(sources.read_whole(name))
                piped[str(file)] = "standard input" if name == "-" else name
                name = str(file)
            names.append(name)
        try:
            yield names
        except DataError as error:  # which knows the file
            text = str(error)
            for file, name in piped.items():
                text = text.replace(file, name)
            raise type(error)(text) from None
