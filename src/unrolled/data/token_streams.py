"""Text as one long row of token ids on disk, and as parallel streams for truncated backpropagation through time.

Training maps the file rather than reading it, so it may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from unrolled import files
from unrolled.data.sources import Source
from unrolled.data.tokenizers import Tokenizer
from unrolled.errors import DataError, RunError, TooShortError

SIDECAR, TOKENS = "tokens.json", "tokens.bin"
_BLOCK = 1 << 24


class TokenFile(BaseModel):
    """The metadata of a token file, kept beside it as JSON."""

    model_config = ConfigDict(strict=True)

    count: int = Field(ge=1, le=2**53)
    dtype: Literal["uint8", "uint16", "uint32"]  # no other: of type "O", NumPy would take the file's bytes for Python objects
    documents: int = Field(ge=1)


def encode_documents(sources: Iterable[Source], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Token ids of documents, block by block; END closes each that is not empty, where the tokenizer has documents."""
    for source in sources:
        empty = True
        for ids in tokenizer.encode_source(source):
            empty = empty and not len(ids)
            yield ids
        if tokenizer.documents and not empty:
            yield np.array([tokenizer.end])


def write_tokens(sources: Sequence[Source], tokenizer: Tokenizer, folder: Path) -> TokenFile:
    """Encode documents into a token file in `folder`.

    Raises:
        DataError: there is no text in them.
    """
    with TokenWriter(folder, tokenizer.size) as writer:
        for ids in encode_documents(sources, tokenizer):
            writer.add(ids)
    if not writer.count:
        names = ", ".join(source.path for source in sources[:3])
        raise DataError(f"{names}: expected text, got nothing (0 characters).")
    return writer.finish(len(sources))


class TokenWriter:
    """Writes a token file in `folder`, piece by piece, in the smallest type that holds ids below `vocabulary_size`."""

    def __init__(self, folder: Path, vocabulary_size: int) -> None:
        self.folder, self.count = folder, 0
        self.dtype = np.dtype(np.uint8 if vocabulary_size <= 1 << 8 else np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)

    def __enter__(self) -> Self:
        self._file = open(self.folder / TOKENS, "wb")  # closed in __exit__
        return self

    def __exit__(self, *failed: object) -> None:
        self._file.close()

    def add(self, ids: np.ndarray) -> None:
        """Append ids (N,)."""
        self._file.write(ids.astype(self.dtype).tobytes())
        self.count += len(ids)

    def finish(self, documents: int) -> TokenFile:
        """Write the metadata, once all ids are in; of at least one id."""
        facts = TokenFile.model_validate({"count": self.count, "dtype": self.dtype.name, "documents": documents})
        (self.folder / SIDECAR).write_text(facts.model_dump_json())
        return facts


def open_tokens(folder: Path, vocabulary_size: int) -> np.ndarray:
    """The token file of `folder`, memory-mapped: (N,) of an unsigned integer type.

    Raises:
        RunError: missing, not as long as its sidecar says, or with ids outside the vocabulary.
    """
    facts, path = files.read_as(folder / SIDECAR, TokenFile), folder / TOKENS
    files.require_file(path)
    expected, got = facts.count * np.dtype(facts.dtype).itemsize, path.stat().st_size
    if got != expected:
        raise RunError(
            f"{path}: expected {expected:,} bytes ({facts.count:,} tokens), got {got:,}. Restore the file or train again."
        )
    try:
        tokens = np.memmap(path, dtype=facts.dtype, mode="r")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({files.reason(error)}).") from None
    if (largest := max(int(tokens[i : i + _BLOCK].max()) for i in range(0, len(tokens), _BLOCK))) >= vocabulary_size:
        raise RunError(f"{path}: expected ids below {vocabulary_size:,} (the vocabulary), got {largest:,}. Train again.")
    return tokens


class TokenStreams:
    """A long row of tokens split into B parallel streams, read chunk by chunk, so that a state carries from chunk to chunk.

    Stream b holds one contiguous B-th of the tokens. Chunk n is a function of n alone; an epoch's chunks start at an offset
    of its own (drawn from the seed), so that chunk boundaries move from epoch to epoch.

    Raises:
        TooShortError: the tokens are too few for one chunk in every stream.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, k1: int, seed: int) -> None:
        self.tokens, self.batch_size, self.k1, self.seed = tokens, batch_size, k1, seed
        self.stream_length = (len(tokens) - 1) // batch_size  # one more token is the last chunk's last target
        self.chunks = (self.stream_length - (k1 - 1)) // k1
        if self.chunks < 1:
            raise TooShortError(
                f"the text is shorter than one chunk: {batch_size} parallel streams (batch_size, --batch-size) of "
                f"{2 * k1 - 1} tokens (--k1 is {k1}) need {batch_size * (2 * k1 - 1) + 1:,} tokens, got {len(tokens):,}. "
                "Give more text, or lower batch_size or k1 (--k1)."
            )

    def chunk(self, n: int, k2: int) -> tuple[np.ndarray, int, int, bool]:
        """The n-th chunk of k1 new steps with what truncated BPTT(k1, k2) needs around it.

        Returns tokens (B, steps + 1), how many leading steps only advance the state (k2 < k1), after how many of the others
        the next window starts, and whether this is the first chunk of an epoch.
        """
        epoch, index = divmod(n, self.chunks)
        offset = int(np.random.default_rng((self.seed, epoch)).integers(self.k1)) if epoch else 0
        first = offset + index * self.k1  # this chunk's first new step
        stop = first + self.k1
        begin = max(offset, stop - k2)  # where the gradient may go back to
        next_begin = max(offset, stop + self.k1 - k2)
        read_from = min(begin, first)
        starts = np.arange(self.batch_size)[:, None] * self.stream_length
        window = self.tokens[starts + np.arange(read_from, stop + 1)]  # (B, steps + 1)
        return window.astype(np.int64), begin - read_from, min(next_begin, stop) - begin, index == 0
