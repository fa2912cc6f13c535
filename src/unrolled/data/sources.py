"""Finding the text that a user names (files, folders, patterns, standard input) and reading it block by block.

A corpus may be larger than memory, so no file is read whole.
"""

from __future__ import annotations

import codecs
import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unrolled.errors import DataError

BLOCK = 1 << 22  # bytes read at a time


@dataclass(frozen=True)
class Source:
    """One document: a file, or what came on standard input."""

    path: str
    content: bytes | None = None
    """Kept only for standard input, which cannot be read twice."""

    def blocks(self) -> Iterator[bytes]:
        """The file's bytes, a few megabytes at a time.

        Raises:
            DataError: it cannot be read.
        """
        if self.content is not None:
            yield self.content
            return
        try:
            with open(self.path, "rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None

    def text(self) -> Iterator[str]:
        """The file's text, block by block, each ending with a line where it has any.

        Raises:
            DataError: not UTF-8, with the offset of the first bad byte.
        """
        decoder, done, rest = codecs.getincrementaldecoder("utf-8-sig")(), 0, ""
        for block in self.blocks():
            pending = len(decoder.getstate()[0])
            try:
                rest += decoder.decode(block)
            except UnicodeDecodeError as error:
                raise self._not_utf8(done - pending + error.start) from None
            done += len(block)
            lines_end = rest.rfind("\n") + 1 or len(rest)
            yield rest[:lines_end]
            rest = rest[lines_end:]
        try:
            rest += decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise self._not_utf8(done - len(decoder.getstate()[0])) from None
        if rest:
            yield rest

    def is_binary(self) -> bool:
        """Whether the beginning holds a zero byte, which no text does."""
        return b"\0" in next(self.blocks(), b"")[:8192]

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


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
