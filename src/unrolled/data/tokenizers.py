"""Running text to token ids and back, by character, byte, word or byte-pair encoding (the last two by Hugging Face tokenizers).

Ids 0 and 1 are UNKNOWN, for what the vocabulary lacks, and END, which closes a document. Single sentences have a tokenizer of
their own in `sentences`.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unrolled import files
from unrolled.data import bpe, words
from unrolled.data.sources import Source
from unrolled.data.words import is_spaceless
from unrolled.errors import DataError, RunError

T = TypeVar("T")
UNKNOWN, END = "<|unknown|>", "<|end|>"
"""How the vocabulary of a byte-pair encoding lists them; text that reads so is text, and has other ids."""
UNKNOWN_WORD, END_WORD = " <|unknown|>", " <|end|>"
"""How a vocabulary of words does: a word of a text has no space in it."""
FILE = "tokenizer.json"
_CHARACTERS = 0x110000 - 0x800
"""How many characters Unicode has room for."""
WORDS = rf"\n|<[^\s<>]+>|{words.WORD}|[^\w\s]|_|\p{{M}}"
"""Besides words, a <mark>, a sign and a newline are tokens."""
_WORDS = regex.compile(WORDS)


class Tokenizer:
    """What the four kinds share. `documents`: whether END closes every document."""

    unit: str
    size: int
    documents: bool
    unknown, end = 0, 1
    unknown_nats = 0.0
    """What it costs to spell what UNKNOWN stands for, beside saying that it is something unknown.

    A character is one of all that the vocabulary lacks, each as likely; bytes and byte-pair encodings lack nothing; words are
    not spelled, so that their figures are those of their vocabulary.
    """

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, (N,) int64."""
        raise NotImplementedError

    def encode_source(self, source: Source) -> Iterator[np.ndarray]:
        return (self.encode(text) for text in source.text())

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as it becomes known while ids come in, for printing a sample as it is generated."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.decode_stream(ids))

    def characters_per_token(self) -> np.ndarray | None:
        """How many characters of text each id stands for, (V,), so that bits per character are comparable between units.

        None where tokens do not give the text back (words: spacing and rare words are lost).
        """
        raise NotImplementedError

    def characters(self) -> np.ndarray | None:
        """`characters_per_token` by its first name."""
        return self.characters_per_token()

    def state(self) -> dict[str, Any]:
        """What `save` writes beside `unit` and `documents`."""
        raise NotImplementedError

    def encode_prompt(self, text: str) -> np.ndarray:
        """Token ids of a prompt.

        Raises:
            DataError: something in it never occurred in what the model learned from.
        """
        if self.unit != "byte" and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"the prompt {text!r} has bytes that are not UTF-8. Only models of bytes (--unit byte) can read them."
            )
        ids = self.encode(text)
        if (ids == self.unknown).any():
            raise DataError(f"the prompt {text!r} has something that the model never saw in its text. {self._hint(text)}")
        return ids

    def _hint(self, text: str) -> str:
        return "Leave it out."

    def save(self, folder: Path) -> None:
        content = {"unit": self.unit, "documents": self.documents, **self.state()}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


class CharTokenizer(Tokenizer):
    """One token per character (Unicode code point)."""

    unit = "char"

    def __init__(self, characters: Sequence[str], documents: bool) -> None:
        self.vocabulary, self.documents = list(characters), documents
        self.size = len(self.vocabulary) + 2
        self.unknown_nats = math.log(max(1, _CHARACTERS - len(self.vocabulary)))
        self._id = np.zeros(0x110000, np.int64)  # UNKNOWN for what is not listed
        self._id[[ord(character) for character in self.vocabulary]] = np.arange(2, self.size)

    @classmethod
    def learn(cls, sources: Sequence[Source], documents: bool) -> CharTokenizer:
        seen: set[str] = set()
        for source in sources:
            for text in source.text():
                seen.update(text)
        return cls(sorted(seen), documents)

    def encode(self, text: str) -> np.ndarray:
        codepoints = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self._id[codepoints]

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        return ({0: "\ufffd", 1: ""}.get(i) or ("" if i == 1 else self.vocabulary[i - 2]) for i in ids)

    def characters_per_token(self) -> np.ndarray:
        counts = np.ones(self.size, np.int64)
        counts[self.end] = 0
        return counts

    def state(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary}

    def _hint(self, text: str) -> str:
        unseen = sorted({character for character in text if not self._id[ord(character)]})
        return f"Leave out {', '.join(map(repr, unseen))}."


class ByteTokenizer(Tokenizer):
    """One token per byte, for any file; id b + 2 for byte b."""

    unit = "byte"
    size = 256 + 2

    def __init__(self, documents: bool) -> None:
        self.documents = documents

    def encode(self, text: str) -> np.ndarray:
        try:
            content = text.encode("utf-8", "surrogateescape")  # of an argument that is not UTF-8: the bytes as they came
        except UnicodeEncodeError as error:
            raise DataError(f"{text!r}: expected text or bytes, got half a surrogate pair at {error.start}.") from None
        return np.frombuffer(content, np.uint8).astype(np.int64) + 2

    def encode_source(self, source: Source) -> Iterator[np.ndarray]:
        return (np.frombuffer(block, np.uint8).astype(np.int64) + 2 for block in source.blocks())

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            yield decoder.decode(bytes([i - 2]) if i >= 2 else b"")
        yield decoder.decode(b"", final=True)

    def characters_per_token(self) -> np.ndarray:
        return np.array([0, 0, *((byte & 0xC0) != 0x80 for byte in range(256))], np.int64)  # continuation bytes count none

    def state(self) -> dict[str, Any]:
        return {}


class LibraryTokenizer(Tokenizer):
    """Words or byte-pair encoding (Sennrich, Haddow and Birch 2016) by Hugging Face tokenizers."""

    def __init__(self, unit: str, library: Any, documents: bool) -> None:
        self.unit, self._library, self.documents = unit, library, documents
        self.size = library.get_vocab_size()

    @classmethod
    def learn(cls, unit: str, sources: Sequence[Source], size: int, documents: bool) -> LibraryTokenizer:
        texts = (text for source in sources for text in source.text())
        if unit == "bpe":
            return cls(unit, bpe.learn(texts, size, [UNKNOWN, END], add_prefix_space=False), documents)
        from tokenizers import trainers

        library = _empty(unit)
        trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=[UNKNOWN_WORD, END_WORD], show_progress=False)
        library.train_from_iterator(texts, trainer)
        return cls(unit, bpe.without_special_text(library, _empty(unit)), documents)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._library.encode(text, add_special_tokens=False).ids, np.int64)

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        if self.unit == "word":
            yield from spaced(self._library.id_to_token(int(i)) for i in ids if i != self.end)
            return
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        for i in ids:
            if i != self.end:
                yield stream.step(self._library, int(i)) or ""

    def characters_per_token(self) -> np.ndarray | None:
        if self.unit == "word":
            return None
        byte_of = bpe.byte_of_letter()
        counts = np.zeros(self.size, np.int64)
        for token, i in self._library.get_vocab().items():
            if token not in (UNKNOWN, END):
                counts[i] = sum((byte_of[letter] & 0xC0) != 0x80 for letter in token)
        return counts

    def state(self) -> dict[str, Any]:
        return {"library": json.loads(self._library.to_str())}


def _empty(unit: str) -> Any:
    """The library's tokenizer of this unit, without a vocabulary."""
    if unit == "bpe":
        return bpe.empty(add_prefix_space=False)
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Library

    library = Library(models.WordLevel(unk_token=UNKNOWN_WORD))
    library.normalizer = normalizers.Replace(Regex(r"\r\n?"), "\n")  # type: ignore[assignment]  # stubs lack the setters
    library.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "removed", invert=True)  # type: ignore[assignment]
    return library


def learn(unit: str, sources: Sequence[Source], vocabulary_size: int) -> Tokenizer:
    """The tokenizer of this unit for these documents. With more than one document, END closes each."""
    documents = len(sources) > 1
    if unit == "char":
        return CharTokenizer.learn(sources, documents)
    if unit == "byte":
        return ByteTokenizer(documents)
    return LibraryTokenizer.learn(unit, sources, vocabulary_size, documents)


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a run folder.

    Raises:
        RunError: missing or damaged.
    """
    return read(folder / FILE, _from_saved)


def read(path: Path, build: Callable[[Any], T]) -> T:
    """What `build` makes of a JSON file's content.

    Raises:
        RunError: missing or damaged.
    """
    content = files.read_json(path)
    try:
        return build(content)
    except ValidationError as error:
        raise RunError(f"{path}: damaged ({files.first_problem(error)}). Restore it or train again.") from None
    except Exception as error:  # the library raises bare Exception for text that is not a tokenizer
        raise RunError(f"{path}: damaged ({type(error).__name__}: {files.reason(error)}). Restore it or train again.") from None


class _Saved(BaseModel):
    """The content of tokenizer.json."""

    model_config = ConfigDict(strict=True)

    unit: Literal["char", "byte", "word", "bpe"]
    documents: bool
    vocabulary: list[Annotated[str, Field(min_length=1, max_length=1)]] = []
    library: dict[str, Any] = {}


def _from_saved(content: Any) -> Tokenizer:
    saved = _Saved.model_validate(content)
    if saved.unit == "char":
        return CharTokenizer(saved.vocabulary, saved.documents)
    if saved.unit == "byte":
        return ByteTokenizer(saved.documents)
    return LibraryTokenizer(saved.unit, bpe.from_json(saved.library, _empty(saved.unit)), saved.documents)


_NO_SPACE_BEFORE, _NO_SPACE_AFTER = frozenset(".,;:!?)]}%…\n。，、！？；：）」』】》"), frozenset("([{\n（「『【《")


def split(text: str) -> list[str]:
    """The words, marks, signs and newlines of a text, which are the tokens of unit "word".

    >>> split("Salut, l'ami !")
    ['Salut', ',', "l'ami", '!']
    """
    return _WORDS.findall(text)


def spaced(several: Iterable[str]) -> Iterator[str]:
    """Words with the spaces that writing puts between them: none before a comma, after a bracket or around a newline."""
    before = "\n"
    for word in several:
        together = before in _NO_SPACE_AFTER or word in _NO_SPACE_BEFORE or (is_spaceless(before) and is_spaceless(word))
        yield word if together else f" {word}"
        before = word
