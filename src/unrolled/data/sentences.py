"""Sentences as token ids, for models that read or write them one by one: each between START and END, padded by PAD."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unrolled.data import bpe, tokenizers, words
from unrolled.errors import DataError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIALS = ("<|pad|>", "<|start|>", "<|end|>", "<|unknown|>")
FILE = "vocabulary.json"


class SentenceTokenizer:
    """Sentences to token ids and back, by word or by byte-pair encoding, in lower case and without punctuation.

    Ids 0 to 3 are PAD, START, END and UNKNOWN.

    Args:
        unit: "word" or "bpe".
        content: the words, from id 4 on; or the JSON of a Hugging Face tokenizer.

    >>> tokenizer = SentenceTokenizer.learn("word", ["A dog runs.", "The dog!"], minimum_count=2)
    >>> tokenizer.encode("a DOG"), tokenizer.decode([3, 4, 2, 4])
    ([3, 4], 'dog')
    """

    def __init__(self, unit: str, content: Any) -> None:
        self.unit, self._content = unit, content
        if unit == "word":
            self._words = [*SPECIALS, *content]
            self._ids = {word: i for i, word in enumerate(self._words)}
            self.size = len(self._words)
        else:
            self._library = bpe.from_json(content)
            self.size = self._library.get_vocab_size()

    @classmethod
    def learn(
        cls, unit: str, sentences: Iterable[str], *, minimum_count: int = 1, vocabulary_size: int = 4000
    ) -> SentenceTokenizer:
        """By word: those that occur at least `minimum_count` times. By byte-pair encoding: a vocabulary of this size.

        Raises:
            DataError: no word occurs as often.
        """
        texts = map(_words, sentences)
        if unit == "word":
            counts = Counter(word for text in texts for word in text)
            frequent = sorted(word for word, count in counts.items() if count >= minimum_count)
            if not frequent:
                word, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
                raise DataError(
                    f"no word occurs {minimum_count} times (--minimum-count), so there is nothing to learn to say; the most "
                    f"frequent, {word!r}, occurs {count} times. Lower --minimum-count, or give more captions."
                )
            return cls(unit, frequent)
        library = bpe.learn(map(words.joined, texts), vocabulary_size, SPECIALS, add_prefix_space=True)
        return cls(unit, json.loads(library.to_str()))

    def encode(self, sentence: str) -> list[int]:
        """Token ids, without START and END."""
        several = _words(sentence)
        if self.unit == "word":
            return [self._ids.get(word, UNKNOWN) for word in several]
        return self._library.encode(words.joined(several), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence up to END; PAD, START and UNKNOWN are left out."""
        kept: list[int] = []
        for i in ids:
            if i == END:
                break
            if i >= len(SPECIALS):
                kept.append(int(i))
        return words.joined(self._words[i] for i in kept) if self.unit == "word" else self._library.decode(kept).strip()

    def save(self, folder: Path) -> None:
        content = {"unit": self.unit, "content": self._content}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> SentenceTokenizer:
        """The tokenizer of a run folder.

        Raises:
            RunError: missing or damaged.
        """

        def build(content: Any) -> SentenceTokenizer:
            saved = _Saved.model_validate(content)
            if isinstance(saved.content, list) != (saved.unit == "word"):
                raise ValueError(f"content: expected that of unit {saved.unit!r}")
            return cls(saved.unit, saved.content)

        return tokenizers.read(folder / FILE, build)


class _Saved(BaseModel):
    """The content of the tokenizer's file."""

    model_config = ConfigDict(strict=True)

    unit: Literal["word", "bpe"]
    content: list[str] | dict[str, Any]


def pad_sentences(sentences: Iterable[Sequence[int]], longest: int) -> Tensor:
    """Token ids of B sentences -> (B, 1 + T): START, the tokens, END, then PAD; one of more than `longest` tokens is truncated
    and has no END.

    >>> pad_sentences([[7, 8, 9], [5]], longest=3)
    tensor([[1, 7, 8, 9],
            [1, 5, 2, 0]])
    """
    rows = [torch.tensor([START, *ids, END][: longest + 1]) for ids in sentences]
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


def _words(text: str) -> list[str]:
    return words.words(text.lower())
