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
    """Sentences to token ids and back, by word, by character or by byte-pair encoding.

    Ids 0 to 3 are PAD, START, END and UNKNOWN.

    Args:
        unit: "word", "char" or "bpe".
        content: the words or characters, from id 4 on; or the JSON of a Hugging Face tokenizer.
        style: "caption": in lower case and without punctuation. "text": as it is written, but for spaces at its ends and, by
            word, for how many spaces are between words.

    >>> tokenizer = SentenceTokenizer.learn("word", ["A dog runs.", "The dog!"], minimum_count=2)
    >>> tokenizer.encode("a DOG"), tokenizer.decode([3, 4, 2, 4])
    ([3, 4], 'dog')
    >>> tokenizer = SentenceTokenizer.learn("word", ["A dog runs."], style="text")
    >>> tokenizer.decode(tokenizer.encode("A cat runs."), copies=["lion"])
    'A lion runs.'
    """

    def __init__(self, unit: str, content: Any, style: str = "caption") -> None:
        self.unit, self.style, self._content = unit, style, content
        if unit == "bpe":
            self._library = bpe.from_json(content, bpe.empty(add_prefix_space=style == "caption"))
            self.size = self._library.get_vocab_size()
        else:
            self._tokens = [*SPECIALS, *content]
            self._ids = {token: i for i, token in enumerate(self._tokens)}
            self.size = len(self._tokens)

    @classmethod
    def learn(
        cls,
        unit: str,
        sentences: Iterable[str],
        *,
        minimum_count: int = 1,
        vocabulary_size: int = 4000,
        style: str = "caption",
    ) -> SentenceTokenizer:
        """By word or character: those that occur at least `minimum_count` times. By byte-pair encoding: a vocabulary of this
        size.

        Raises:
            DataError: none occurs as often.
        """
        if unit == "bpe":
            texts = map(_caption, sentences) if style == "caption" else map(_text, sentences)
            library = bpe.learn(texts, vocabulary_size, SPECIALS, add_prefix_space=style == "caption")
            return cls(unit, json.loads(library.to_str()), style)
        counts = Counter(token for sentence in sentences for token in _split(sentence, unit, style))
        frequent = sorted(token for token, count in counts.items() if count >= minimum_count)
        if not frequent:
            token, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
            raise DataError(
                f"no {unit} occurs {minimum_count} times (minimum_count, --minimum-count), so there is nothing to learn to "
                f"say; the most frequent, {token!r}, occurs {count} times. Lower minimum_count, or give more {style}s."
            )
        return cls(unit, frequent, style)

    def encode(self, sentence: str) -> list[int]:
        """Token ids, without START and END."""
        if self.unit == "bpe":
            text = _caption(sentence) if self.style == "caption" else _text(sentence)
            return self._library.encode(text, add_special_tokens=False).ids
        return [self._ids.get(token, UNKNOWN) for token in _split(sentence, self.unit, self.style)]

    def unknown_share(self, sentences: Iterable[str]) -> float:
        """What share of their tokens the vocabulary lacks. In a loss these are one token, the cheaper the commoner it is."""
        ids = [i for sentence in sentences for i in self.encode(sentence)]
        return ids.count(UNKNOWN) / max(1, len(ids))

    def pieces(self, sentence: str) -> list[str]:
        """What each of the ids of `encode` stands for, as it is written."""
        if self.unit == "bpe":
            return [self._library.decode([i]) for i in self.encode(sentence)]
        return _split(sentence, self.unit, self.style)

    def decode(self, ids: Iterable[int], copies: Iterable[str] = ()) -> str:
        """The sentence up to END; PAD, START and UNKNOWN are left out, but for UNKNOWN that has one of `copies`, in order."""
        kept: list[int] = []
        written: list[str] = []
        copies = iter(copies)
        for i in map(int, ids):
            if i == END:
                break
            if i >= len(SPECIALS):
                kept.append(i)
                if self.unit != "bpe":
                    written.append(self._tokens[i])
            elif i == UNKNOWN and (copy := next(copies, None)):
                written.append(copy)
        if self.unit == "bpe":
            return self._library.decode(kept).strip()
        if self.unit == "char":
            return "".join(written)
        return words.joined(written) if self.style == "caption" else "".join(tokenizers.spaced(written)).strip()

    def save(self, folder: Path, file: str = FILE) -> None:
        content = {"unit": self.unit, "style": self.style, "content": self._content}
        (folder / file).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, file: str = FILE) -> SentenceTokenizer:
        """The tokenizer of a run folder.

        Raises:
            RunError: missing or damaged.
        """

        def build(content: Any) -> SentenceTokenizer:
            saved = _Saved.model_validate(content)
            if isinstance(saved.content, list) != (saved.unit != "bpe"):
                raise ValueError(f"content: expected that of unit {saved.unit!r}")
            return cls(saved.unit, saved.content, saved.style)

        return tokenizers.read(folder / file, build)


class _Saved(BaseModel):
    """The content of the tokenizer's file."""

    model_config = ConfigDict(strict=True)

    unit: Literal["word", "char", "bpe"]
    style: Literal["caption", "text"] = "caption"
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


def _split(sentence: str, unit: str, style: str) -> list[str]:
    if unit == "char":
        return list(sentence.strip())
    return words.words(sentence.lower()) if style == "caption" else tokenizers.split(sentence.strip())


def _caption(sentence: str) -> str:
    return words.joined(words.words(sentence.lower()))


def _text(sentence: str) -> str:
    text = sentence.strip()
    return f" {text}" if text else ""  # a space, so that a word has the same tokens at the beginning as elsewhere
