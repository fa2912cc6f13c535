"""The pairs of a run: encoded once into files that are mapped, not read, and batched by length under a token budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import RootModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unrolled import files
from unrolled.data.batches import LengthBatches
from unrolled.data.pairs import Pairs
from unrolled.data.sentences import END, PAD, START, SentenceTokenizer
from unrolled.data.token_streams import TokenWriter, open_tokens
from unrolled.errors import DataError, RunError
from unrolled.tasks.translation.config import Config

TRAINING, VALIDATION = "train", "validation.json"
"""In the run folder: a folder of encoded pairs, and pairs as they are written."""
SIDES = ("source", "target")
LARGEST_VALIDATION = 1000
"""Pairs that are held out at most where no validation files are given."""
BLOCK = 1 << 24
"""Tokens that are searched for the ends of sentences at once."""


class Vocabularies(NamedTuple):
    """The tokenizers of both sides; one and the same where the vocabulary is joint."""

    source: SentenceTokenizer
    target: SentenceTokenizer

    @classmethod
    def load(cls, folder: Path) -> Vocabularies:
        """Of a run folder.

        Raises:
            RunError: missing or damaged.
        """
        return cls(*(SentenceTokenizer.load(folder, f"{side}.json") for side in SIDES))

    def save(self, folder: Path) -> None:
        for side, tokenizer in zip(SIDES, self, strict=True):
            tokenizer.save(folder, f"{side}.json")


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Learn the vocabularies, encode the pairs, and leave all of it in the run folder.

    Raises:
        DataError: no pairs, unreadable ones, files that do not belong together, or too little.
    """
    everything = Pairs(config.data, config.encoding)
    total, empty = 0, 0
    for pair in everything:
        total, empty = total + complete(pair), empty + (not complete(pair))
    if not total:
        raise DataError(f"{', '.join(config.data)}: expected pairs of sentences to learn from, got none that is not empty.")
    if empty:
        say(f"left out {empty:,} pairs of which a side is empty")
    held_out = np.zeros(total, bool)
    if config.validation:
        validation = [pair for pair in Pairs(config.validation, config.encoding) if complete(pair)]
        if not validation:
            names = ", ".join(config.validation)
            raise DataError(
                f"{names}: expected pairs of sentences to measure on in validation (--validation), got none that is not empty."
            )
    else:
        count = min(LARGEST_VALIDATION, int(total * config.validation_fraction))
        held_out[np.random.default_rng(config.seed).choice(total, count, replace=False)] = True
        validation = list(compress(filter(complete, everything), held_out))

    def training() -> Iterator[tuple[str, str]]:
        return compress(filter(complete, everything), ~held_out)

    vocabularies = learn_vocabularies(config, training)
    vocabularies.save(folder)
    left_out, kept = _write(folder / TRAINING, training(), vocabularies, config.longest)
    if left_out:
        say(f"left out {left_out:,} of {left_out + kept:,} pairs: longer than {config.longest} tokens (longest, --longest)")
    if not kept:
        raise DataError(
            f"{', '.join(config.data)}: all pairs are longer than {config.longest} tokens. Raise longest (--longest)."
        )
    (folder / VALIDATION).write_text(json.dumps(validation, ensure_ascii=False, indent=0), encoding="utf-8")


def read_validation(folder: Path) -> list[tuple[str, str]]:
    """The pairs for validation that `prepare` saved.

    Raises:
        RunError: missing or damaged.
    """
    return files.read_as(folder / VALIDATION, _Validation).root


class _Validation(RootModel[list[tuple[str, str]]]):
    """The content of the file of pairs for validation."""


def complete(pair: tuple[str, str]) -> bool:
    """Whether neither side is empty."""
    return bool(pair[0].strip() and pair[1].strip())


def learn_vocabularies(config: Config, pairs: Callable[[], Iterable[tuple[str, str]]]) -> Vocabularies:
    """The vocabularies of these pairs; `pairs` goes through them anew at each call."""

    def learn(sentences: Iterable[str]) -> SentenceTokenizer:
        return SentenceTokenizer.learn(
            config.unit,
            sentences,
            minimum_count=config.minimum_count,
            vocabulary_size=config.vocabulary_size,
            style="text",
        )

    if config.vocabulary == "joint":
        joint = learn(chain.from_iterable(pairs()))
        return Vocabularies(joint, joint)
    return Vocabularies(*(learn(pair[side] for pair in pairs()) for side in (0, 1)))


def _encode(
    pairs: Iterable[tuple[str, str]], vocabularies: Vocabularies, longest: int
) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """The ids of both sides, END behind each; None for a pair of which one side is longer than `longest`."""
    for source, target in pairs:
        one, other = vocabularies.source.encode(source), vocabularies.target.encode(target)
        fits = max(len(one), len(other)) <= longest
        yield (np.array([*one, END]), np.array([*other, END])) if fits else None


def _write(folder: Path, pairs: Iterable[tuple[str, str]], vocabularies: Vocabularies, longest: int) -> tuple[int, int]:
    """Write pairs; return how many were left out as too long, and how many were not."""
    left_out, kept = 0, 0
    for side in SIDES:
        (folder / side).mkdir(parents=True)
    writers = [TokenWriter(folder / side, one.size) for side, one in zip(SIDES, vocabularies, strict=True)]
    with writers[0], writers[1]:
        for pair in _encode(pairs, vocabularies, longest):
            if pair is None:
                left_out += 1
                continue
            kept += 1
            for writer, ids in zip(writers, pair, strict=True):
                writer.add(ids)
    if kept:
        for writer in writers:
            writer.finish(kept)
    return left_out, kept


@dataclass(frozen=True)
class Encoded:
    """Encoded pairs: `encoded.source[n]` and `encoded.target[n]` are the ids of pair n, END among them."""

    source: Sentences
    target: Sentences

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def open(cls, folder: Path, vocabularies: Vocabularies) -> Encoded:
        """Those that `prepare` saved, on disk.

        Raises:
            RunError: the files are missing or damaged.
        """
        sides = zip(SIDES, vocabularies, strict=True)
        found = cls(*(Sentences(open_tokens(folder / side, tokenizer.size)) for side, tokenizer in sides))
        if len(found.source) != len(found.target):
            raise RunError(
                f"{folder}: expected as many sources as targets, got {len(found.source):,} and {len(found.target):,}. "
                "Restore the folder or train again."
            )
        return found

    @classmethod
    def read(cls, paths: Sequence[str], config: Config, vocabularies: Vocabularies) -> Encoded:
        """Those of other files, in memory, without those that are empty or longer than `config.longest`.

        Raises:
            DataError: they cannot be read, or no pair is left.
        """
        pairs = filter(complete, Pairs(paths, config.encoding))
        kept = [*filter(None, _encode(pairs, vocabularies, config.longest))]
        if not kept:
            raise DataError(
                f"{', '.join(paths)}: expected pairs of sentences that are not empty and have at most {config.longest} tokens "
                "(longest), got none."
            )
        return cls(*(Sentences(np.concatenate(side)) for side in zip(*kept, strict=True)))


class Sentences(Sequence[np.ndarray]):
    """Sentences one behind the other, each up to its END and with it.

    >>> several = Sentences(np.array([5, 6, END, 7, END]))
    >>> several.lengths, several[1]
    (array([3, 2]), array([7, 2]))
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = tokens
        found = [np.flatnonzero(tokens[i : i + BLOCK] == END) + i for i in range(0, len(tokens), BLOCK)]
        self._ends = np.concatenate([np.zeros(1, np.int64), *(each + 1 for each in found)])
        self.lengths = np.diff(self._ends)
        """Of each, END among them, (N,)."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, n: Any) -> Any:
        if isinstance(n, slice):
            return [self[one] for one in range(*n.indices(len(self)))]
        return self._tokens[self._ends[n] : self._ends[n + 1]].astype(np.int64)


class Batches(LengthBatches):
    """Training pairs in batches of alike length, in another order in every epoch.

    All batches of an epoch have about as many tokens, source and target together: those of `batch_size` pairs of mean length.
    Pairs are sorted by the target's length and then the source's, with some noise.
    """

    def __init__(self, config: Config, pairs: Encoded) -> None:
        self.pairs = pairs
        super().__init__(pairs.source.lengths + pairs.target.lengths, config.batch_size, config.seed)

    def padding(self) -> float:
        """The share of all tokens in the first epoch's batches, both sides together, that is padding."""
        order, cuts, _ = self._epoch(0)
        padded = sum(
            (stop - start) * int(lengths[order[start:stop]].max())
            for lengths in (self.pairs.source.lengths, self.pairs.target.lengths)
            for start, stop in pairwise(cuts)
        )
        return 1 - float(self.lengths.sum()) / padded

    def order(self, rng: np.random.Generator) -> np.ndarray:
        noise = rng.random(len(self.lengths))
        return np.lexsort((self.pairs.source.lengths + 2 * noise, self.pairs.target.lengths))


def pad(sentences: Iterable[np.ndarray | Sequence[int]], before: Sequence[int] = ()) -> Tensor:
    """Ids of N sentences -> (N, T), PAD behind each, `before` in front of each."""
    rows = [torch.from_numpy(np.concatenate([np.array(before, np.int64), np.asarray(ids, np.int64)])) for ids in sentences]
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


def batch_of(pairs: Encoded, numbers: Iterable[int]) -> dict[str, Tensor]:
    """`source` (N, S), and `tokens` (N, 1 + T) of the target, START first."""
    numbers = list(numbers)
    return {"source": pad(pairs.source[n] for n in numbers), "tokens": pad((pairs.target[n] for n in numbers), [START])}
