"""Finding the text that a user names (files, folders, patterns, pipes, standard input) and reading it block by block.

A corpus may be larger than memory, so no file is read whole; a pipe is, since it can be read only once.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import os
import select
import stat
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unrolled.errors import DataError

Named = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
BLOCK = 1 << 22  # bytes read at a time
BYTE_ORDER_MARKS = {  # UTF-32's first: its little-endian mark begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
GZIP = b"\x1f\x8b"
"""How a file that gzip has written begins."""
WAIT_FOR_WRITER = 10.0  # seconds


def check_encoding(name: str) -> str:
    """The name itself, if it is one of an encoding of text, or `auto`.

    Raises:
        ValueError: Python knows no such encoding of text.
    """
    if name == "auto":
        return name
    try:
        b"\0\0\0\0".decode(name, "replace")  # LookupError for what is no encoding of text
        known = codecs.lookup(name).incrementaldecoder is not None
    except (LookupError, ValueError):
        known = False
    if not known:
        raise ValueError("an encoding that Python knows, such as utf-16, latin-1 or cp1252, or auto")
    return name


def marked_encoding(beginning: bytes) -> str | None:
    """The encoding that a file's byte order mark names, or None without one."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), None)


@dataclass(frozen=True)
class Source:
    """One document: a file, or what came through a pipe or on standard input."""

    path: str
    content: bytes | None = None
    """Kept only for what cannot be read twice."""
    encoding: str = "utf-8"
    """Of the file, as Python names it; `auto` goes by its byte order mark, and takes UTF-8 without one."""
    byte_unit: bool = False
    """Whether --unit byte could read it too, which errors then advise."""

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

    def unpacked(self) -> Iterator[bytes]:
        """The same, of a gzip file what was packed into it.

        Raises:
            DataError: it cannot be read, or is a damaged gzip file.
        """
        if not self._start().startswith(GZIP):
            yield from self.blocks()
            return
        try:
            with gzip.open(self.path if self.content is None else io.BytesIO(self.content)) as file:
                while block := file.read(BLOCK):
                    yield block
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.path}: a damaged gzip file ({error}).") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None

    def beginning(self) -> bytes:
        """The first bytes, some thousand at most; of a gzip file those of what was packed into it."""
        start = self._start()
        return next(self.unpacked(), b"")[:8192] if start.startswith(GZIP) else start

    def _start(self) -> bytes:
        if self.content is not None:
            return self.content[:8192]
        try:
            with open(self.path, "rb") as file:
                return file.read(8192)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None

    def text(self) -> Iterator[str]:
        """The file's text, unpacked where it is a gzip file, block by block, each ending with a line where it has any.

        Raises:
            DataError: not in its encoding, with the offset of the first bad byte; or a damaged gzip file.
        """
        encoding = self.encoding
        if encoding == "auto":
            encoding = marked_encoding(self.beginning()) or "utf-8"
        if codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        decoder, done, rest = codecs.getincrementaldecoder(encoding)(), 0, ""
        for block in self.unpacked():
            pending = len(decoder.getstate()[0])
            try:
                rest += decoder.decode(block)
            except UnicodeError as error:
                raise self._undecodable(done - pending + getattr(error, "start", 0)) from None
            done += len(block)
            lines_end = rest.rfind("\n") + 1 or len(rest)
            yield rest[:lines_end]
            rest = rest[lines_end:]
        try:
            rest += decoder.decode(b"", final=True)
        except UnicodeError:
            raise self._undecodable(done - len(decoder.getstate()[0])) from None
        if rest:
            yield rest

    def byte_order_mark(self) -> str:
        """The mark at the beginning of UTF-8 text, which `text` leaves out; nothing where there is none."""
        is_utf8 = self.encoding == "auto" or codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")
        return "\ufeff" if is_utf8 and self.beginning().startswith(codecs.BOM_UTF8) else ""

    def not_text(self) -> str | None:
        """What the file's beginning shows it to be, and what to do, where that is no text in its encoding; else None."""
        beginning = self.beginning()
        if self.encoding == "auto" and marked_encoding(beginning):
            return None
        if codecs.lookup("utf-8" if self.encoding == "auto" else self.encoding).name.startswith(("utf-16", "utf-32")):
            return None
        if (marked := marked_encoding(beginning)) in ("utf-16", "utf-32"):
            advice = "Add --encoding auto (in Python, encoding='auto'), which goes by the byte order mark of each file"
            return f"{marked.upper()} text. {advice}"
        if b"\0" not in beginning:
            return None
        for first, ending in ((1, "le"), (0, "be")):  # in most UTF-16 text every second byte is zero
            if beginning[first::2].count(0) > 0.4 * len(beginning) / 2 and not beginning[1 - first :: 2].count(0):
                advice = f"If it is, add --encoding utf-16-{ending} (in Python, encoding='utf-16-{ending}')"
                return f"what looks like UTF-16 text without a byte order mark. {advice}"
        return (
            "a binary file (it has zero bytes)"
            + ". To learn its bytes as they are, train with --unit byte (in Python, unit='byte')" * self.byte_unit
        )

    def _undecodable(self, offset: int) -> DataError:
        name = "UTF-8" if self.encoding in ("utf-8", "auto") else self.encoding
        if self.encoding != "auto" and (problem := self.not_text()):
            return DataError(f"{self.path}: expected {name} text, got {problem}.")
        otherwise = ", or learn its bytes as they are with --unit byte (unit='byte')" * self.byte_unit
        return DataError(
            f"{self.path}: expected {name} text, got an invalid byte at offset {offset:,}. "
            "Name its encoding, such as --encoding latin-1 (evaluate: --set encoding=latin-1; in Python, encoding='latin-1')"
            f"{otherwise}."
        )


def find(
    patterns: Sequence[str],
    *,
    binary: bool = False,
    encoding: str = "utf-8",
    left_out: dict[str, str] | None = None,
    byte_unit: bool = False,
) -> list[Source]:
    """The documents that files, folders (searched whole), globs, pipes and `-` (standard input) name, in a fixed order.

    In a folder, hidden files are passed over, and files that are not text are left out; a file named by itself has to be text,
    unless `binary` is set.

    Args:
        patterns: the names.
        binary: take any file.
        encoding: of all of them, see `Source.encoding`.
        left_out: gets the files of folders that were left out, with the reason.
        byte_unit: of all of them, see `Source.byte_unit`.

    Raises:
        DataError: nothing is there, cannot be read, or is not text.
    """
    if not patterns:
        raise DataError("expected data, got none. Name files, folders, patterns, or - for standard input.")
    found: list[Source] = []
    how = _How(encoding, byte_unit)
    for pattern in patterns:
        path = os.path.expanduser(pattern)
        if kind_of(pattern) == "folder":
            found += _in_folder(pattern, path, binary, {} if left_out is None else left_out, how)
            continue
        for one in _named(pattern, path, how):
            if not binary and (problem := one.not_text()):
                raise DataError(f"{one.path}: expected text, got {problem}.")
            found.append(one)
    return found


def names(several: Iterable[Named]) -> list[str]:
    """Names of files and folders, alone and in lists, in a row.

    >>> names(["a.txt", Path("b.txt"), ["c.txt"]])
    ['a.txt', 'b.txt', 'c.txt']
    """
    found: list[str] = []
    for one in several:
        found += [os.fspath(each) for each in ([one] if isinstance(one, (str, os.PathLike)) else one)]
    return found


def kind_of(name: str) -> str:
    """`folder`, `file`, `pipe` (standard input, a FIFO), or `nothing` where there is no such file.

    Raises:
        DataError: no name at all, one that the system refuses to look up, or a device.
    """
    if not name:
        raise DataError("expected the name of a file or a folder, got an empty one (''). The current folder is a dot: .")
    if name == "-":
        return "pipe"
    try:
        status = os.stat(os.path.expanduser(name))
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{_short(name)}: cannot be read ({reason}).") from None
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    if stat.S_ISREG(status.st_mode):
        return "file"
    if stat.S_ISFIFO(status.st_mode) or _is_standard_input(status):
        return "pipe"
    raise DataError(f"{name}: expected a file, a folder or a pipe, got a device.")


def read_whole(name: str) -> bytes:
    """The bytes of a file or a pipe, to its end; `-` is standard input.

    Raises:
        DataError: it cannot be read, is neither, or is a pipe to which nobody writes.
    """
    path, kind = os.path.expanduser(name), kind_of(name)
    try:
        if kind == "pipe" and (name == "-" or _is_standard_input(os.stat(path))):
            if sys.stdin is None:
                raise DataError("expected data on standard input, got none: it is closed.")
            return sys.stdin.buffer.read()
        return _read_pipe(path) if kind == "pipe" else Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: standard input was closed
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None


class _How(NamedTuple):
    """The fields of `Source` that all files have in common."""

    encoding: str
    byte_unit: bool


def _named(pattern: str, path: str, how: _How) -> list[Source]:
    kind = kind_of(pattern)
    if kind == "pipe":
        return [Source("standard input" if pattern == "-" else pattern, read_whole(pattern), *how)]
    if kind == "file":
        return [Source(path, None, *how)]
    matches = sorted(match for match in glob.glob(path, recursive=True) if os.path.isfile(match))
    if not matches:
        raise DataError(f"{_short(pattern)}: no such file or folder, and no file matches it as a pattern.")
    return [Source(match, None, *how) for match in matches]


def _in_folder(pattern: str, path: str, binary: bool, left_out: dict[str, str], how: _How) -> list[Source]:
    folder, inside = Path(path), []
    try:
        for here, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not _hidden(name)]
            inside += [one for name in names if not _hidden(name) and (one := Path(here, name)).is_file()]
    except OSError as error:
        raise DataError(f"{error.filename or pattern}: cannot be read ({error.strerror}).") from None
    inside.sort()
    sources = [Source(str(one), None, *how) for one in inside]
    problems = {} if binary else {one.path: problem for one in sources if (problem := one.not_text())}
    texts = [one for one in sources if one.path not in problems]
    if binary and not inside:
        raise DataError(f"{pattern}: expected a folder of files, got an empty one.")
    if not texts:
        first = "".join(
            f" The first, {os.path.relpath(name, path)}, is {problem}." for name, problem in [*problems.items()][:1]
        )
        raise DataError(f"{pattern}: a folder without text ({len(inside)} files, none of them text).{first}")
    left_out |= problems
    return texts


def describe(left_out: dict[str, str]) -> str:
    """One line about the files that `find` left out."""
    shown = "; ".join(f"{name} is {problem}" for name, problem in [*left_out.items()][:3])
    more = f"; and {len(left_out) - 3:,} more" if len(left_out) > 3 else ""
    files = "file that is" if len(left_out) == 1 else "files that are"
    return f"left out {len(left_out):,} {files} not text: {shown}{more}."


def _read_pipe(path: str) -> bytes:
    """All that comes through a pipe; one to which nobody writes is not waited for without end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb", buffering=0) as pipe:
        content, waited_until = pipe.read(1), time.monotonic() + WAIT_FOR_WRITER
        hung_up = select.poll()
        hung_up.register(descriptor, select.POLLIN)
        while content == b"" and not hung_up.poll(50):  # nobody has opened the other end; None: somebody has, and is slow
            if time.monotonic() > waited_until:
                raise DataError(f"{path}: nobody writes to this pipe. Start first what does.")
            content = pipe.read(1)
        os.set_blocking(descriptor, True)
        return (content or b"") + pipe.read()


def _is_standard_input(status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, os.fstat(0))
    except OSError:
        return False


def _short(name: str) -> str:
    return name if len(name) < 200 else f"{name[:100]}... ({len(name)} characters)"


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"
