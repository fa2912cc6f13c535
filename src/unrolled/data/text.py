"""Text: finding it, reading it piece by piece, and laying it out as one long row of token ids on disk.

A corpus may be larger than memory: files are read in pieces, tokens go to a file, and training maps that file.
"""

from __future__ import annotations

import codecs
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from unrolled.data.tokenizers import Tokenizer
from unrolled.errors import DataError, RunError

PIECE = 1 << 22  # bytes read at a time
SIDECAR, TOKENS = "tokens.json", "tokens.bin"


@dataclass(frozen=True)
class Source:
    """One document: a file, or what came on standard input."""

    path: str
    content: bytes | None = None
    """Kept only for standard input, which cannot be read twice."""

    def pieces(self) -> Iterator[bytes]:
        if self.content is not None:
            yield self.content
            return
        try:
            with open(self.path, "rb") as file:
                while piece := file.read(PIECE):
                    yield piece
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None

    def text(self) -> Iterator[str]:
        """The file's text, decoded piece by piece, cut at the ends of lines where there are any.

        Raises:
            DataError: not UTF-8, with the offset of the first bad byte.
        """
        decoder, done, rest = codecs.getincrementaldecoder("utf-8-sig")(), 0, ""
        for piece in self.pieces():
            pending = len(decoder.getstate()[0])
            try:
                rest += decoder.decode(piece)
            except UnicodeDecodeError as error:
                raise self._not_utf8(done - pending + error.start) from None
            done += len(piece)
            cut = rest.rfind("\n") + 1 or len(rest)
            yield rest[:cut]
            rest = rest[cut:]
        try:
            rest += decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise self._not_utf8(done - len(decoder.getstate()[0])) from None
        if rest:
            yield rest

    def is_binary(self) -> bool:
        """Whether the beginning holds a zero byte, which no text does."""
        return b"\0" in next(self.pieces(), b"")[:8192]

    def _not_utf8(self, offset: int) -> DataError:
        return DataError(
            f"{self.path}: expected UTF-8 text, got an invalid byte at offset {offset:,}. "
            "Convert the file to UTF-8, or learn its bytes as they are with --unit byte."
        )


def find(patterns: Sequence[str], *, binary: bool = False) -> list[Source]:
    """The documents that files, folders (searched whole), globs and `-` (standard input) name, in a fixed order.

    In a folder, hidden files and files that are not text are passed over; a file named by itself has to be text, unless
    `binary` is set.

    Raises:
        DataError: nothing is there, cannot be read, or is not text.
    """
    found: list[Source] = []
    for pattern in patterns:
        if pattern == "-":
            found.append(Source("standard input", sys.stdin.buffer.read()))
            continue
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
            sources = [Source(str(p)) for p in inside]
            texts = sources if binary else [source for source in sources if not source.is_binary()]
            if not texts:
                raise DataError(f"{pattern}: a folder without text ({len(inside)} files, none of them text).")
            found += texts
        elif path.is_file():
            found.append(Source(str(path)))
        elif matches := sorted(match for match in glob.glob(str(path), recursive=True) if Path(match).is_file()):
            found += [Source(match) for match in matches]
        elif path.exists():
            found.append(Source(str(path)))  # a device or a pipe
        else:
            raise DataError(f"{pattern}: no such file or folder, and no file matches it as a pattern.")
    for source in found:
        if not binary and source.is_binary():
            raise DataError(
                f"{source.path}: expected text, got a binary file (it has zero bytes). "
                "To learn its bytes as they are, add --unit byte."
            )
    if not patterns:
        raise DataError("expected text to learn from, got none. Name files, folders, patterns, or - for standard input.")
    return found


class TokenFacts(BaseModel):
    """What stands beside a token file."""

    count: int
    dtype: str
    documents: int


def write_tokens(sources: Sequence[Source], tokenizer: Tokenizer, folder: Path) -> TokenFacts:
    """Encode the documents one after the other into `folder`; each ends with the END token where the tokenizer has documents.

    Raises:
        DataError: there is no text in them.
    """
    dtype = np.dtype(np.uint8 if tokenizer.size <= 1 << 8 else np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)
    count = 0
    with open(folder / TOKENS, "wb") as file:
        for source in sources:
            before = count
            for ids in tokenizer.encode_source(source):
                file.write(ids.astype(dtype).tobytes())
                count += len(ids)
            if tokenizer.documents and count > before:
                file.write(np.array([tokenizer.end], dtype).tobytes())
                count += 1
    if not count:
        names = ", ".join(source.path for source in sources[:3])
        raise DataError(f"{names}: expected text, got nothing (0 characters).")
    facts = TokenFacts(count=count, dtype=dtype.name, documents=len(sources))
    (folder / SIDECAR).write_text(facts.model_dump_json())
    return facts


def open_tokens(folder: Path) -> np.ndarray:
    """The token file of `folder`, mapped, not read: (N,) of an unsigned integer type.

    Raises:
        RunError: missing, or not as long as its sidecar says.
    """
    try:
        facts = TokenFacts.model_validate(json.loads((folder / SIDECAR).read_text()))
        tokens = np.memmap(folder / TOKENS, dtype=facts.dtype, mode="r")
    except (OSError, ValueError, ValidationError, TypeError) as error:
        raise RunError(f"{folder}: the prepared text is missing or damaged ({error}). Train from the text again.") from None
    if len(tokens) != facts.count:
        raise RunError(f"{folder / TOKENS}: expected {facts.count:,} tokens, got {len(tokens):,}: truncated. Train again.")
    return tokens


class Streams:
    """A long row of tokens cut into B parallel streams, read chunk by chunk, so that a state carries from chunk to chunk.

    Stream b holds one contiguous B-th of the tokens. Chunk n is a function of n alone; an epoch's chunks start at an offset
    of its own (drawn from the seed), so that chunk boundaries move from epoch to epoch.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, k1: int, seed: int) -> None:
        self.tokens, self.batch_size, self.k1, self.seed = tokens, batch_size, k1, seed
        self.stream_length = (len(tokens) - 1) // batch_size  # one more token is the last chunk's last target
        self.chunks = (self.stream_length - (k1 - 1)) // k1
        if self.chunks < 1:
            raise DataError(
                f"the text is shorter than one chunk: {batch_size} parallel streams (--batch-size) of {2 * k1 - 1} tokens "
                f"(--k1 is {k1}) need {batch_size * (2 * k1 - 1) + 1:,} tokens, got {len(tokens):,}. "
                "Give more text, or lower --batch-size or --k1."
            )

    def chunk(self, n: int, k2: int) -> tuple[np.ndarray, int, int, bool]:
        """The n-th chunk of k1 new steps with what truncated BPTT(k1, k2) needs around it.

        Returns tokens (B, steps + 1), how many leading steps only move the state on (k2 < k1), after how many of the others
        the next window starts, and whether the streams start anew here.
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


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
