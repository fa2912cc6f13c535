"""The sequences of a run: read twice, once to learn from and once to keep, mapped, and batched by length."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Several
from contextlib import ExitStack
from itertools import compress, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, RootModel, model_validator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unrolled import files
from unrolled.data import sources
from unrolled.data.rows import RowWriter, open_rows
from unrolled.data.sequences import Kind, Sequence
from unrolled.data.spread import Spread
from unrolled.errors import DataError, RunError
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.read import kind_of, read, require_encoder

TRAINING, VALIDATION, ENCODING, FORMS = "train", "validation", "encoding.json", "forms.json"
"""In the run folder: two folders of sequences, what was learned of them, and every word of theirs."""
NAMES = "names.json"
PAD, UNKNOWN = 0, 1
"""Numbers of words and characters; those of the vocabulary follow."""
UNLABELLED = -1
"""In place of a label, where there is none; such steps count in no loss and no metric."""
NAMED = 20
"""Sequences whose names are kept."""
LONGEST_WORD = 40
"""Letters of a word that are read; of a longer one its first and its last."""


class Encoding(BaseModel):
    """What training learned of its data: which words, characters and labels there are, and how numbers are spread."""

    model_config = ConfigDict(strict=True)

    kind: Kind
    labels: list[str]
    words: list[str] = []
    characters: list[str] = []
    mean: list[float] = []
    deviation: list[float] = []
    shape: list[int] = []
    """Of the numbers of a step: [F], of pictures [height, width, channels]; their mean and deviation are by channel."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"expected labels, each once, got {self.labels[:5]}")
        if len(self.mean) != len(self.deviation) or min(self.deviation, default=1.0) <= 0:
            raise ValueError("expected a mean and a positive deviation for each number of a step")
        if not self.mean and self.kind not in ("words", "characters"):
            raise ValueError(f"expected a mean for each number of a step, for its steps are {self.kind}, got none")
        return self

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Of a run folder.

        Raises:
            RunError: missing or damaged.
        """
        return files.read_as(folder / ENCODING, cls)

    def save(self, folder: Path) -> None:
        (folder / ENCODING).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    def model_post_init(self, context: Any) -> None:
        if self.mean and not self.shape:
            self.shape = [len(self.mean)]
        if self.mean and (len(self.shape) not in (1, 3) or self.shape[-1] != len(self.mean)):
            raise ValueError(f"a mean for each of the numbers of a step, got {len(self.mean)} for {self.shape}")
        self._words = {word: n for n, word in enumerate(self.words, 2)}
        self._characters = {character: n for n, character in enumerate(self.characters, 2)}

    def require_fit(self, sequence: Sequence) -> None:
        """
        Raises:
            DataError: a sequence of numbers of another width than those of training.
        """
        if self.mean and (got := list(sequence.inputs.shape[1:])) != self.shape:
            raise DataError(
                f"{sequence.name}: expected {_counted(self.shape)} numbers a step, as in training, got {_counted(got)}."
            )

    def collate(self, several: Several[Any]) -> dict[str, Tensor]:
        """The inputs of B sequences as the model reads them, padded to the longest: `lengths` (B,), and of

        - words: `words` (B, T), their letters `characters` (B, T, C), and `forms` (B, T), alike for the same word;
        - characters: `characters` (B, T);
        - numbers, audio, video: `numbers` (B, T, F), of pictures (B, T, height, width, channels).
        """
        batch = {"lengths": torch.tensor([len(one) for one in several])}
        if self.kind == "words":
            forms = {form: n for n, form in enumerate(dict.fromkeys(form for one in several for form in one), 1)}
            ids = torch.tensor([PAD, *(self._words.get(form, UNKNOWN) for form in forms)])
            spelled = pad_sequence([torch.zeros(1, dtype=torch.int64), *map(self._spelled, forms)], batch_first=True)
            batch["forms"] = _padded([[forms[form] for form in one] for one in several])
            batch["words"] = ids[batch["forms"]]
            batch["characters"] = spelled[batch["forms"]]
        elif self.kind == "characters":
            batch["characters"] = _padded([[self._characters.get(c, UNKNOWN) for c in one] for one in several])
        else:
            batch["numbers"] = pad_sequence([torch.from_numpy(np.array(one)) for one in several], batch_first=True)
        return batch

    def _spelled(self, word: str) -> Tensor:
        half = LONGEST_WORD // 2
        letters = word if len(word) <= LONGEST_WORD else word[:half] + word[-half:]
        return torch.tensor([self._characters.get(letter, UNKNOWN) for letter in letters], dtype=torch.int64)


class Example(NamedTuple):
    """A sequence with its labels as numbers."""

    inputs: Any
    """As in `Sequence`."""
    labels: np.ndarray
    """Per step (T,), of several at once (T, L) of true and false; per sequence without the T."""
    weights: np.ndarray | float | None = None
    """How much they count in the loss: per step (T,), per sequence one number. None: as much as the others."""


class Numbering:
    """Numbers for labels: those of training come first, in their order; others get one as they are met."""

    def __init__(self, config: Config, labels: Iterable[str]) -> None:
        self.config = config
        self._numbers = {label: n for n, label in enumerate(labels)}

    @property
    def names(self) -> list[str]:
        """The label of each number."""
        return list(self._numbers)

    def example(self, sequence: Sequence) -> Example:
        """
        Raises:
            DataError: as `labels_of`.
        """
        labels = labels_of(sequence, self.config)
        each = labels if self.config.per == "step" else [labels]
        if self.config.multi:
            numbers = [[self._number(label) for label in one] for one in each]
            encoded = np.zeros((len(each), len(self._numbers)), bool)
            for row, own in zip(encoded, numbers, strict=True):
                row[own] = True
        else:
            encoded = np.array([self._number(label) if label else UNLABELLED for label in each], np.int32)
        return Example(sequence.inputs, encoded if self.config.per == "step" else encoded[0])

    def _number(self, label: str) -> int:
        return self._numbers.setdefault(label, len(self._numbers))


def labels_of(sequence: Sequence, config: Config) -> Any:
    """The labels of a sequence, of the form that the settings ask for.

    Per sequence, labels of steps that are all the same are that of the whole.

    Raises:
        DataError: it has none, or of another form.
    """
    labels = sequence.labels
    if labels is None:
        raise DataError(f"{sequence.name}: expected labels to learn from or to compare with, got none.")
    if config.per == "step":
        if not isinstance(labels, list):
            raise DataError(f"{sequence.name}: expected a label for each step, got one for the whole. Add --per sequence.")
        return ["" if label == config.unlabelled else label for label in labels] if config.unlabelled else labels
    if not isinstance(labels, list):
        return labels
    if len(set(labels)) != 1:
        raise DataError(
            f"{sequence.name}: expected one label for the whole (--per sequence), got steps of {len(set(labels))} different "
            "ones."
        )
    return labels[0]


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Learn vocabularies, labels and statistics, and leave them and the sequences in the run folder.

    Raises:
        DataError: no sequences, unreadable ones, without labels, of different widths, or of one label only.
        ConfigError: an encoder that is not here, or of something else than video.
    """
    for path in (*config.data, *config.validation):
        if sources.kind_of(path) == "pipe":
            raise DataError(
                f"{path}: expected files to learn from, which are read several times, got a pipe. Write it to a file."
            )
    kind = kind_of(config, config.data)
    require_encoder(config, kind)
    names = ", ".join(config.data)
    empty, total, silent = 0, 0, 0
    for sequence in read(config, kind, config.data):
        empty, total = empty + (not len(sequence)), total + bool(len(sequence))
        silent += kind == "audio" and len(sequence) > 0 and bool(np.ptp(sequence.inputs) == 0)
    if total and silent == total:
        raise DataError(f"{names}: expected sound, got {silent:,} recordings of silence.")
    if silent:
        say(f"{silent:,} recordings are silent from beginning to end")
    if not total:
        raise DataError(f"{names}: expected sequences to learn from, got none that has a step.")
    if empty:
        say(f"left out {empty:,} sequences without a step")
    held_out = np.zeros(total, bool)
    if not config.validation:
        count = int(total * config.validation_fraction)
        held_out[np.random.default_rng(config.seed).choice(total, count, replace=False)] = True
        if not count:
            say(f"no validation: {config.validation_fraction:.0%} of {total:,} sequences is none; --validation names some")

    def everything(paths: Several[str]) -> Iterator[Sequence]:
        return (sequence for sequence in read(config, kind, paths) if len(sequence))

    def training() -> Iterator[Sequence]:
        return compress(everything(config.data), ~held_out)

    def validation() -> Iterator[Sequence]:
        return everything(config.validation) if config.validation else compress(everything(config.data), held_out)

    encoding = learn(config, kind, training(), names)
    encoding.save(folder)
    forms: dict[str, int] = {}
    parts = (part for sequence in training() for part in cut(sequence, config))
    _write(folder / TRAINING, parts, encoding, Numbering(config, encoding.labels), forms)
    _write(folder / VALIDATION, validation(), encoding, Numbering(config, encoding.labels), forms)
    (folder / FORMS).write_text(json.dumps(list(forms), ensure_ascii=False, indent=0), encoding="utf-8")


def learn(config: Config, kind: Kind, sequences: Iterable[Sequence], names: str = "the sequences") -> Encoding:
    """What there is to know of labelled sequences, going through them once.

    Raises:
        DataError: as `prepare`.
    """
    labels: Counter[str] = Counter()
    words: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    numbers = _Numbers()
    for sequence in sequences:
        own = labels_of(sequence, config)
        for label in own if config.per == "step" else [own]:
            labels.update(label if config.multi else [label] if label else [])
        if kind == "words":
            words.update(sequence.inputs)
            for word in sequence.inputs:
                characters.update(word)
        elif kind == "characters":
            characters.update(sequence.inputs)
        else:
            numbers.add(sequence)
        if config.crf and "" in own:
            raise DataError(f"{sequence.name}: expected a label for every step, which crf needs, got a step without one.")
    if len(labels) < (1 if config.multi else 2):
        got = f"only {next(iter(labels))!r}" if labels else "none"
        raise DataError(f"{names}: expected labels of at least two names to tell apart, got {got}.")

    def frequent(counts: Counter[str]) -> list[str]:
        return sorted(one for one, count in counts.items() if count >= config.minimum_count)

    return Encoding(
        kind=kind,
        labels=sorted(labels),
        words=frequent(words),
        characters=frequent(characters),
        mean=numbers.spread.mean.tolist(),
        deviation=numbers.spread.deviation.tolist(),
        shape=numbers.shape,
    )


class _Numbers:
    """How the numbers of sequences are spread: each over all steps, of pictures each channel over all pixels."""

    def __init__(self) -> None:
        self.spread, self.first = Spread(np.float32), ""
        self.shape: list[int] = []

    def add(self, sequence: Sequence) -> None:
        own = list(sequence.inputs.shape[1:])
        if not self.shape:
            self.first, self.shape = sequence.name, own
        if own != self.shape:
            raise DataError(
                f"{sequence.name}: expected {_counted(self.shape)} numbers a step, as in {self.first}, got {_counted(own)}. "
                "All have to have the same columns."
            )
        self.spread.add(sequence.inputs.reshape(-1, own[-1]))


def _counted(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def cut(sequence: Sequence, config: Config) -> Iterator[Sequence]:
    """Parts of at most `longest` steps, about as long as each other; per sequence it stays whole."""
    count = -(-len(sequence) // config.longest) if config.per == "step" else 1
    ends = [len(sequence) * n // count for n in range(count + 1)]
    for start, end in pairwise(ends):
        own = slice(start, end) if count > 1 else slice(None)
        labels = sequence.labels[own] if count > 1 else sequence.labels
        yield Sequence(sequence.name, sequence.inputs[own], labels)


def _write(
    folder: Path, sequences: Iterable[Sequence], encoding: Encoding, numbering: Numbering, forms: dict[str, int]
) -> None:
    """Keep sequences as `Kept` reads them; `forms` gets a number for each word."""
    folder.mkdir()
    config, known, unseen = numbering.config, len(encoding.labels), 0
    shape, dtype = ((known,), "bool") if config.multi else ((), "int32")
    inputs: RowWriter | None = None
    first: list[str] = []
    with ExitStack() as stack:
        lengths = stack.enter_context(RowWriter(folder, "lengths", "int64"))
        labels = stack.enter_context(RowWriter(folder, "labels", dtype, shape))
        for sequence in sequences:
            encoding.require_fit(sequence)
            if len(first) < NAMED:
                first.append(sequence.name.encode(errors="replace").decode())  # of a file whose name is no UTF-8
            example = numbering.example(sequence)
            rows = _as_rows(example.inputs, encoding.kind, forms)
            inputs = inputs or stack.enter_context(RowWriter(folder, "inputs", rows.dtype.name, rows.shape[1:]))
            inputs.add(rows)
            lengths.add(np.array([len(rows)]))
            each = example.labels if config.per == "step" else example.labels[None]
            if config.multi:
                unseen, each = unseen + int(each[:, known:].sum()), each[:, :known]
            labels.add(each)
    facts = Names(names=numbering.names, unseen=unseen, first=first)
    (folder / NAMES).write_text(facts.model_dump_json(), encoding="utf-8")


def _as_rows(inputs: Any, kind: Kind, forms: dict[str, int]) -> np.ndarray:
    if kind == "words":
        return np.array([forms.setdefault(form, len(forms)) for form in inputs], np.int32)
    if kind == "characters":
        return np.array([ord(character) for character in inputs], np.int32)
    return inputs


class Names(BaseModel):
    """What the numbers in a folder's labels stand for."""

    model_config = ConfigDict(strict=True)

    names: list[str]
    """Those of training first."""
    unseen: int
    """Of several labels at once: how many were left out, being none of training's."""
    first: list[str] = []
    """What the first sequences are called."""


class Kept(Several[Example]):
    """The sequences of one part of a run folder, mapped: `kept[n]` is an `Example`.

    Raises:
        RunError: the files are missing or damaged.
    """

    def __init__(self, folder: Path, config: Config, encoding: Encoding) -> None:
        facts = files.read_as(folder / NAMES, Names)
        self.names, self.unseen, self.first = facts.names, facts.unseen, facts.first
        self.lengths = np.asarray(open_rows(folder, "lengths"))
        """Of each sequence, (N,)."""
        self._ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        self._kind, self._per_step = encoding.kind, config.per == "step"
        self._inputs = open_rows(folder, "inputs") if len(self.lengths) else np.zeros(0, np.int32)
        self._labels = open_rows(folder, "labels")
        self._forms = files.read_as(folder.parent / FORMS, _Forms).root
        steps = int(self._ends[-1])
        expected = (steps, steps if self._per_step else len(self.lengths))
        if (found := (len(self._inputs), len(self._labels))) != expected or self.lengths.min(initial=1) < 1:
            raise RunError(f"{folder}: expected {expected} rows of inputs and labels, got {found}. Restore it or train again.")
        largest = {"words": len(self._forms) - 1, "characters": sys.maxunicode}.get(self._kind)
        if largest is None and steps and list(self._inputs.shape[1:]) != encoding.shape:
            raise RunError(
                f"{folder}: expected {_counted(encoding.shape)} numbers a step, got {_counted([*self._inputs.shape[1:]])}. "
                "Train again."
            )
        if largest is not None:
            _require_numbers(folder / "inputs.bin", self._inputs, 0, largest)
        if not config.multi:
            _require_numbers(folder / "labels.bin", self._labels, UNLABELLED, len(self.names) - 1)
        elif self._labels.shape[1:] != (len(encoding.labels),):
            raise RunError(
                f"{folder}: expected {len(encoding.labels)} labels a row, got {self._labels.shape[1:]}. Train again."
            )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, n: Any) -> Any:
        if isinstance(n, slice):
            return [self[one] for one in range(*n.indices(len(self)))]
        own = slice(self._ends[n], self._ends[n + 1])
        inputs: Any = self._inputs[own]
        if self._kind == "words":
            inputs = [self._forms[form] for form in inputs.tolist()]
        elif self._kind == "characters":
            inputs = "".join(map(chr, inputs.tolist()))
        return Example(inputs, np.asarray(self._labels[own if self._per_step else n]))


def _require_numbers(path: Path, rows: np.ndarray, smallest: int, largest: int) -> None:
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise RunError(f"{path}: expected one whole number a row, got {rows.dtype} {rows.shape[1:]}. Train again.")
    block = 1 << 24
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        if part.min() < smallest or part.max() > largest:
            raise RunError(
                f"{path}: expected numbers from {smallest} to {largest:,}, got {part.min():,} to {part.max():,}. Train again."
            )


class _Forms(RootModel[list[str]]):
    """The content of the file of words."""


def batch_of(examples: Several[Example], encoding: Encoding, config: Config) -> dict[str, Tensor]:
    """What `Encoding.collate` makes of B examples, and `labels`: per step (B, T), UNLABELLED behind the end, of several at once
    (B, T, L) of true and false; per sequence without the T. Where examples have weights, all of them, also `weights`: (B, T),
    0 behind the end, or (B,).
    """
    labels = [torch.from_numpy(np.array(example.labels, bool if config.multi else np.int64)) for example in examples]
    padding = 0 if config.multi else UNLABELLED
    together = pad_sequence(labels, batch_first=True, padding_value=padding) if config.per == "step" else torch.stack(labels)
    batch = {**encoding.collate([example.inputs for example in examples]), "labels": together}
    if examples[0].weights is not None:
        weights = [torch.from_numpy(np.array(example.weights, np.float32)) for example in examples]
        batch["weights"] = pad_sequence(weights, batch_first=True) if config.per == "step" else torch.stack(weights)
    return batch


def _padded(several: Several[Several[int]]) -> Tensor:
    """Ids of B sequences -> (B, T), PAD behind each."""
    return pad_sequence([torch.tensor(one, dtype=torch.int64) for one in several], batch_first=True, padding_value=PAD)
