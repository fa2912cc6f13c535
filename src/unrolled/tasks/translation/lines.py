"""Lines to translate as they arrive, from a file, a pipe or a terminal: as many at a time as can be read without waiting."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from unrolled.data.sources import GZIP, Source, kind_of, marked_encoding
from unrolled.errors import DataError


def at_hand(file: str, encoding: str, say: Callable[[str], None]) -> Iterator[list[str]]:
    """The lines of FILE, or of standard input if it is `-`: one that is typed, thousands of a file. It may be packed by gzip.

    Of a line with tabs, as tables of pairs have them, what stands before the first; that there are such is said.

    Raises:
        DataError: it is no file, cannot be read, or is not in this encoding.
    """
    whole = True
    for lines in _lines(file, encoding):
        if whole and any("\t" in line for line in lines):
            whole = False
            say(f"{_name(file)}: read as a table; what stands before the first tab of a line is translated")
        yield lines if whole else [line.partition("\t")[0] for line in lines]


def _lines(file: str, encoding: str) -> Iterator[list[str]]:
    kind = kind_of(file)
    if kind in ("nothing", "folder"):
        raise DataError(f"{file}: expected a file of lines, " + ("got a folder." if kind == "folder" else "there is none."))
    if kind == "file" and (problem := Source(os.path.expanduser(file), encoding=encoding).not_text()):
        raise DataError(f"{file}: expected text, got {problem}.")
    blocks = _unpacked(_blocks(file), file)
    first = next(blocks, b"")
    if encoding == "auto":
        encoding = marked_encoding(first) or "utf-8"
    decoder = codecs.getincrementaldecoder("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding)()
    rest, number = "", 0
    for block in chain([first], blocks, [None]):
        try:
            rest += decoder.decode(block or b"", final=block is None)
        except UnicodeDecodeError as error:
            *before, line = (rest + error.object[: error.start].decode(encoding, "ignore")).split("\n")
            raise DataError(
                f"{_name(file)}, line {number + len(before) + 1:,}: expected {_called(encoding)} text, got an invalid byte "
                f"after {line[-20:]!r}. Name its encoding, such as --encoding latin-1."
            ) from None
        *several, rest = rest.split("\n")
        if block is None and rest:
            several.append(rest)
        if several:
            yield [line.removesuffix("\r") for line in several]
        number += len(several)


def _blocks(file: str) -> Iterator[bytes]:
    try:
        opened = 0 if file == "-" else os.path.expanduser(file)
        with open(opened, "rb", buffering=0, closefd=file != "-") as unbuffered:  # whose read returns what there is
            while block := unbuffered.read(1 << 16):
                yield block
    except OSError as error:
        raise DataError(f"{_name(file)}: cannot be read ({error.strerror}).") from None


def _unpacked(blocks: Iterable[bytes], file: str) -> Iterator[bytes]:
    """What gzip packed into these, or themselves if it did not write them."""
    blocks = iter(blocks)
    first = next(blocks, b"")
    if not first.startswith(GZIP):
        yield from chain([first], blocks)
        return
    inflate: Any = None  # a new one for each packed file: several may stand behind each other
    for block in chain([first], blocks):
        while block:
            inflate = inflate or zlib.decompressobj(wbits=31)
            try:
                yield inflate.decompress(block)
            except zlib.error as error:
                raise DataError(f"{_name(file)}: a damaged gzip file ({error}).") from None
            block = inflate.unused_data
            inflate = None if inflate.eof else inflate
    if inflate:
        raise DataError(f"{_name(file)}: a damaged gzip file (it ends before its end is marked).")


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


def _called(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8" else encoding
