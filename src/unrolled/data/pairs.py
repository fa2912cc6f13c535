"""Pairs of sentences, from two files that belong together line by line or from a table: for models that translate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from unrolled.data import sources
from unrolled.data.sources import Source
from unrolled.errors import DataError

FORM = "Give two files, SOURCE TARGET, or one table with a tab between source and target"


def lines(source: Source, carriage_returns: bool = False) -> Iterator[str]:
    """The lines of a text without their ends, \\n or \\r\\n; other signs that break lines are part of them.

    Args:
        source: the text.
        carriage_returns: leave the \\r of \\r\\n where it is.

    Raises:
        DataError: it cannot be read, or is not text.
    """
    rest = ""
    for block in source.text():
        several = (rest + block).split("\n")
        rest = several.pop()
        yield from several if carriage_returns else (line.removesuffix("\r") for line in several)
    if rest:
        yield rest if carriage_returns else rest.removesuffix("\r")


class Pairs:
    """Pairs of sentences (source, target) in files, which are read anew each time that one goes through them.

    Args:
        paths: SOURCE and TARGET, text files of as many lines; or one table, whose first two columns these are. Files may be
            packed by gzip; `-` is standard input.
        encoding: of the files; `auto` goes by their byte order marks.

    Raises:
        DataError: another number of files, one that cannot be read or is not text, one file twice; while one goes through them:
            files of different length, a line of a table without a tab.
    """

    def __init__(self, paths: Sequence[str], encoding: str = "utf-8") -> None:
        if len(paths) not in (1, 2):
            names = f": {', '.join(paths)}" if paths else ""
            raise DataError(f"expected pairs of sentences in one file or in two, got {len(paths)} files{names}. {FORM}.")
        if len(paths) == 2 and _same_file(*paths):
            raise DataError(f"source and target are the same file, {paths[0]}. {FORM}.")
        self.files = [_opened(path, encoding) for path in paths]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._of_table(self.files[0]) if len(self.files) == 1 else self._of_two(*self.files)

    def _of_two(self, source: Source, target: Source) -> Iterator[tuple[str, str]]:
        counts = [0, 0]
        for pair in zip_longest(lines(source), lines(target)):
            counts = [count + (line is not None) for count, line in zip(counts, pair, strict=True)]
            if pair[0] is not None and pair[1] is not None:
                yield pair
        if counts[0] != counts[1]:
            raise DataError(
                f"expected as many lines in both files, got {counts[0]:,} in {source.path} and {counts[1]:,} in {target.path}. "
                "Line n of one has to be the translation of line n of the other."
            )

    def _of_table(self, table: Source) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(lines(table), 1):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) < 2:
                raise DataError(f"{table.path}, line {number:,}: expected a tab between source and target, got none. {FORM}.")
            yield columns[0], columns[1]


def _opened(path: str, encoding: str) -> Source:
    kind = sources.kind_of(path)
    if kind in ("folder", "nothing"):
        raise DataError(
            f"{path}: expected a file of sentences, {'got a folder' if kind == 'folder' else 'there is none'}. {FORM}."
        )
    if kind == "pipe":
        source = Source("standard input" if path == "-" else path, sources.read_whole(path), encoding)
    else:
        source = Source(os.path.expanduser(path), encoding=encoding)
    if problem := source.not_text():
        raise DataError(f"{source.path}: expected text, got {problem}.")
    return source


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(os.path.expanduser(one), os.path.expanduser(other))
    except OSError:
        return one == other
