"""Labelling as the training loop sees it, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Several
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from unrolled import checkpoint, files
from unrolled.data import sources
from unrolled.data.batches import LengthBatches
from unrolled.data.live_rows import Arrived
from unrolled.data.sequences import Sequence, written_label
from unrolled.data.sources import Named, names
from unrolled.errors import DataError, RunError
from unrolled.task import Activations, Carry, Metric, Preview, Processes, Step
from unrolled.tasks.labelling import activations, data
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding, Example, Kept, Numbering, batch_of
from unrolled.tasks.labelling.export import export
from unrolled.tasks.labelling.generate import Labelled, generate
from unrolled.tasks.labelling.live import Follower, Live, arriving
from unrolled.tasks.labelling.loss import training_loss
from unrolled.tasks.labelling.measure import measure
from unrolled.tasks.labelling.model import Labeller
from unrolled.tasks.labelling.read import fill, read, read_one

SHOWN = 20
"""Steps of a sample on the screen."""
PREVIEWED = 5
"""Sequences that are shown at the end."""


class Task:
    """A labeller bound to its run folder, for `unrolled.training.train`."""

    name = "labelling"
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.encoding = Encoding.load(folder)
        kept = Kept(folder / data.TRAINING, config, self.encoding)
        self.sequences: Several[Example] = kept
        self.validation = Kept(folder / data.VALIDATION, config, self.encoding)
        self.batches = LengthBatches(kept.lengths, config.batch_size, config.seed)
        self.unit = "steps" if config.per == "step" else "sequences"
        self.loss_name = f"nats per {config.per}"
        if config.multi or not len(self.validation):
            self.selection = Metric("loss", self.loss_name)
        else:
            self.selection = Metric("accuracy", "accuracy", lower_is_better=False)
        self.summary = (
            f"{len(self.sequences):,} sequences of {self.encoding.kind} to learn from, {len(self.validation):,} to measure on, "
            f"{len(self.encoding.labels):,} labels; {kept.lengths.sum() / self.batches.per_epoch:,.0f} steps a "
            f"batch, {self.batches.padding():.1%} padding"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other sequences: for looking into its gradient.

        Raises:
            DataError: they cannot be read, have no labels, or labels that the run never saw.
        """
        task, known = cls(config, folder), Encoding.load(folder).labels
        numbering, examples = Numbering(config, known), []
        for sequence in Run(folder).read(*paths, labelled=True):
            if len(sequence):
                task.encoding.require_fit(sequence)
                examples.append(numbering.example(sequence))
        unseen = numbering.names[len(known) :]
        if unseen or not examples:
            got = f"the labels {', '.join(unseen)}" if examples else "none that has a step"
            raise DataError(f"{', '.join(paths)}: expected sequences with labels that the run was trained on, got {got}.")
        task.sequences = examples
        task.batches = LengthBatches(np.array([len(one.inputs) for one in examples]), config.batch_size, config.seed)
        return task

    def build(self) -> nn.Module:
        return Labeller(self.config, self.encoding)

    def batch(self, step: int) -> dict[str, Any]:
        return batch_of([self.sequences[n] for n in self.batches[step]], self.encoding, self.config)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, self.config)  # type: ignore[arg-type]

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Figures of `measure`; none where there is nothing to measure on."""
        if not len(self.validation):
            return {}
        own = (self.validation[n] for n in range(processes.index, len(self.validation), processes.count))
        numbering = Numbering(self.config, self.validation.names)
        metrics = measure(model, self.encoding, numbering, own, processes, self.validation.unseen)  # type: ignore[arg-type]
        return {name: value for name, value in metrics.items() if not isinstance(value, dict)}

    def show(self, model: nn.Module, seed: int) -> str:
        model.eval()
        kept = self.validation if len(self.validation) else self.sequences
        sequence = Sequence("", kept[seed * 7 % len(kept)].inputs)
        return in_one_line(next(generate(model, self.encoding, self.config, [sequence])))  # type: ignore[arg-type]


class Run:
    """A trained labeller from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.encoding = Encoding.load(self.folder)
        self.model: Labeller = checkpoint.load_model(self.folder, lambda: Labeller(self.config, self.encoding))
        self.model.eval()

    @staticmethod
    def describe(folder: Path) -> dict[str, Any]:
        """What a step is, and the labels; whatever the settings left open.

        Raises:
            RunError: they are missing or damaged.
        """
        encoding = Encoding.load(folder)
        return {"kind": encoding.kind, "labels": encoding.labels}

    @property
    def labels(self) -> list[str]:
        """The labels that it knows, in the order of `Labelled.probabilities`."""
        return self.encoding.labels

    def read(self, *paths: Named, labelled: bool = False) -> Iterator[Sequence]:
        """The sequences of files, in any form that training takes; with labels, or as they are.

        Raises:
            DataError: a file cannot be read.
        """
        return read(self.config, self.encoding.kind, names(paths), labelled)

    def label(self, inputs: Named | Iterable[Sequence]) -> Iterator[Labelled]:
        """Labels of sequences, in order, some read ahead of those that have been given back.

        Args:
            inputs: files, in any form that training takes, or sequences.

        Raises:
            DataError: a file cannot be read, or has numbers of another width than training.
        """
        given = [inputs] if isinstance(inputs, (str, Path)) else inputs
        sequences = (sequence for one in given for sequence in ([one] if isinstance(one, Sequence) else self.read(one)))  # type: ignore[arg-type]
        return generate(self.model, self.encoding, self.config, sequences)

    def arriving(self, path: str, form: str | None = None) -> Iterator[Arrived]:
        """What there is to `follow` at a path, waited for: CSV on standard input (-) or in a file that grows, or the pictures
        of a camera, a stream, a pipe, or a file that grows, at the run's rate.

        Args:
            path: what to read.
            form: of video, FFmpeg's name of its format or device, where its beginning does not say it.

        Raises:
            DataError: it cannot be read.
        """
        return arriving(self.encoding, self.config, path, form)

    def follow(self, rows: Iterable[np.ndarray]) -> Iterator[Live]:
        """Labels of one sequence of numbers or video while it arrives, each as soon as it can be said; those of `label`.

        Args:
            rows: (F,) each, such as a sensor gives them, or pictures (height, width, channels); waited for.

        Raises:
            RunError: the model needs the whole sequence (it is bidirectional, or has a CRF), or reads something else.
            DataError: a row of another width than training.
        """
        follower = Follower(self.model, self.encoding, self.config)
        for row in rows:
            yield from follower.step(row)
        yield from follower.finish()

    def fill(self, paths: Named) -> Iterator[str]:
        """The lines of files of words, labels in their column and everything else as it was; of JSON lines, `labels` of each
        object.

        Raises:
            DataError: as `label`.
        """
        for source in sources.find(names([paths]), encoding=self.config.encoding):
            found = (one.labels for one in self.label(read_one(self.config, self.encoding.kind, source, labelled=False)))
            written = (list(map(written_label, labels)) for labels in found)
            yield from fill(self.config, source, written)

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
        """Figures of `measure`, and how many `sequences` and `steps` they are of.

        Args:
            paths: labelled sequences, in any form that training takes.
            report: called with what is being done, how many sequences are done, and the total.

        Raises:
            DataError: the data cannot be read, or has no labels.
        """
        sequences = [one for one in self.read(*paths, labelled=True) if len(one)]
        if not sequences:
            raise DataError(f"{', '.join(names(paths))}: expected sequences to measure on, got none that has a step.")
        numbering = Numbering(self.config, self.labels)

        def examples() -> Iterator[data.Example]:
            for done, sequence in enumerate(sequences):
                self.encoding.require_fit(sequence)
                yield numbering.example(sequence)
                if report:
                    report("sequences", done + 1, len(sequences))

        metrics = measure(self.model, self.encoding, numbering, examples())
        return {**metrics, "sequences": len(sequences), "steps": sum(map(len, sequences))}

    def draw_figures(self, figures: dict[str, Any], folder: Path) -> list[Path]:
        """Write which labels were taken for which as confusion.png, and its numbers as confusion.csv; return their paths.

        Args:
            figures: of `evaluate`.
            folder: where to; made if it is missing.

        Raises:
            RunError: a run of several labels at once, which are not taken for each other; or the folder cannot be written.
        """
        from unrolled.inspection import confusion  # matplotlib, which takes a second to load

        if self.config.multi:
            raise RunError(f"{self.folder}: expected a run of one label at a step to draw a confusion matrix of, got --multi.")
        names, rows = list(figures["per_label"]), figures["confusion"]
        counts = np.array([[rows.get(true, {}).get(said, 0) for said in names] for true in names])
        picture = confusion.draw(folder / "confusion.png", names, counts)
        files.write_atomically(folder / "confusion.csv", confusion.as_csv(names, counts).encode())
        return [picture, folder / "confusion.csv"]

    def activations(self, *inputs: Named) -> Activations:
        """What the hidden units are after each word or character of labelled files, and the labels; see `activations.read`."""
        return activations.read(self.model, self.encoding, self.read(*inputs, labelled=True))

    def gallery(self, folder: Path, *inputs: Named) -> list[Path]:
        """Draw the labels of each sequence as `tasks.labelling.show` does, or of a few that it was measured on where no file is
        named; return the paths.
        """
        from unrolled.tasks.labelling.show import draw  # matplotlib, which takes a second to load

        rate = self.config.frames_per_second if self.encoding.kind == "video" and inputs else None
        several = self.label(self.read(*inputs) if inputs else self._some_sequences())
        drawn = (draw(folder, number, one, self.labels, rate) for number, one in enumerate(several, 1))
        return [path for paths in drawn for path in paths]

    def _some_sequences(self, held_out: Kept | None = None) -> Iterator[Sequence]:
        """The first that it was measured on, or trained on if there are no such."""
        kept = held_out or Kept(self.folder / data.VALIDATION, self.config, self.encoding)
        kept = kept if len(kept) else Kept(self.folder / data.TRAINING, self.config, self.encoding)
        names = chain(kept.first, repeat(""))
        return (Sequence(name, example.inputs) for name, example in zip(names, islice(kept, PREVIEWED), strict=False))

    def preview(self) -> Preview:
        """Labels of a few sequences that it was measured on."""
        held_out = Kept(self.folder / data.VALIDATION, self.config, self.encoding)
        several = self.label(self._some_sequences(held_out))
        count, steps = len(held_out), int(held_out.lengths.sum())
        measured_on = f"{count:,} sequence{'s' * (count != 1)} of {steps:,} steps together" if count else ""
        return Preview(
            "labels",
            "\n".join(map(in_one_line, several)),
            (f"unrolled label {self.folder} YOUR_FILE",),
            measured_on=measured_on,
        )

    def export(self, path: str | Path) -> Path:
        """Write the model as ONNX, whose inputs and outputs `tasks.labelling.export` lists.

        Raises:
            ExportError: the package onnx is missing, ONNX cannot say it, or the file cannot be written.
        """
        return export(self.model, self.encoding, path)


def in_one_line(one: Labelled) -> str:
    """Some steps of a labelled sequence, for the screen: words and characters with their labels, of numbers, sound and video
    the sequence's name and the labels' runs."""
    inputs, labels = one.sequence.inputs, one.labels
    if not isinstance(labels, list):
        beginning = one.sequence.name
        if isinstance(inputs, (str, list)):
            beginning = inputs[:60] if isinstance(inputs, str) else " ".join(inputs[:SHOWN])
        return f"{beginning} -> {written_label(labels)}".strip()
    written = list(map(written_label, labels))
    if isinstance(inputs, list):
        return " ".join(f"{word}/{label}" for word, label in zip(inputs[:SHOWN], written, strict=False))
    runs, start = [], 0
    for step in range(1, len(written) + 1):
        if step == len(written) or written[step] != written[start]:
            what = repr(inputs[start:step]) if isinstance(inputs, str) else f"{start}-{step - 1}"
            runs.append(f"{what} {written[start] or 'none'}")
            start = step
    name = "" if isinstance(inputs, str) or not one.sequence.name else f"{one.sequence.name}: "
    return name + ", ".join(runs[:SHOWN])
