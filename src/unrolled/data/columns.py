"""Words in columns, one a line, a blank line behind each sentence: CoNLL files of any columns, and CoNLL-U.

In CoNLL-U columns have names and lie between tabs, lines that begin with # are comments, and the numbers 3-4 (a multiword
token) and 5.1 (an empty node) stand for no word of the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from unrolled.data.pairs import lines
from unrolled.data.sequences import Sequence, parse_label
from unrolled.data.sources import Source
from unrolled.errors import DataError, nearest

CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_BLANK = " \t\r"
_CELL = re.compile(rf"[^{_BLANK}]+")
"""Other spaces, such as those in 10\u00a0000, are part of a word."""
_NUMBER = re.compile(r"\d+")


class Columns:
    """A file of words in columns.

    Args:
        source: the file.
        word: the column of the words: a number from 1, or in CoNLL-U a name. By default 1, in CoNLL-U FORM.
        label: that of the labels; by default the last one, in CoNLL-U UPOS.
        multi: several labels at once, with | between them.

    Raises:
        DataError: no such column; while one goes through it: a line with too few columns, a file that cannot be read.
    """

    def __init__(self, source: Source, word: str | None = None, label: str | None = None, multi: bool = False) -> None:
        self.source, self.multi = source, multi
        self.is_conllu = is_conllu(source)
        self.word = self._number(word, "--word-column") if word else int(self.is_conllu)
        self.label = self._number(label, "--label-column") if label else 3 if self.is_conllu else -1

    def sentences(self, labelled: bool = True) -> Iterator[Sequence]:
        """The sentences, with labels or without. In CoNLL-U a label _ is none."""
        words: list[str] = []
        labels: list = []
        count = 0

        def sentence() -> Sequence:
            return Sequence(f"{self.source.path}, sentence {count:,}", words, labels if labelled else None)

        for number, line in enumerate(lines(self.source), 1):
            if self._is_word(line):
                cells = self._cells(line)
                needed = max(self.word, self.label, 1 if labelled and self.label < 0 else 0) if labelled else self.word
                if len(cells) <= needed:
                    raise DataError(
                        f"{self.source.path}, line {number:,}: expected {needed + 1} columns or more, got {len(cells)}: "
                        f"{line[:60]!r}. --word-column and --label-column say which are read."
                    )
                words.append(cells[self.word])
                if labelled:
                    label = cells[self.label]
                    labels.append(parse_label("" if self.is_conllu and label == "_" else label, self.multi))
            elif not line.strip(_BLANK) and words:
                count += 1
                yield sentence()
                words, labels = [], []
        if words:
            count += 1
            yield sentence()

    def filled(self, labels: Iterable[list[str]]) -> Iterator[str]:
        """The file's lines with the labels of its sentences in their column, and everything else as it was: the mark at the
        beginning of UTF-8, and the \\r of lines that end with \\r\\n.

        A line that ends before that column gets it at its end; so does, where the label is the last column, a line of only a
        word.
        """
        each = (label for sentence in labels for label in sentence)
        before = self.source.byte_order_mark()
        for line in lines(self.source, carriage_returns=True):
            end = "\r" if line.endswith("\r") else ""
            own = line.removesuffix("\r")
            yield before + (self._with(own, next(each)) if self._is_word(own) else own) + end
            before = ""

    def _with(self, line: str, label: str) -> str:
        spans = _tabbed(line) if "\t" in line else [match.span() for match in _CELL.finditer(line)]
        place = self.label
        if place >= len(spans) or (place < 0 and len(spans) <= self.word + 1):
            separator = " " if "\t" not in line and len(spans) > 1 else "\t"
            return line + separator + label
        start, end = spans[place]
        return line[:start] + label + line[end:]

    def _is_word(self, line: str) -> bool:
        if not line.strip(_BLANK) or line.startswith("-DOCSTART-"):
            return False
        return not self.is_conllu or (not line.startswith("#") and line.partition("\t")[0].isdecimal())

    def _cells(self, line: str) -> list[str]:
        return line.split("\t") if "\t" in line else _CELL.findall(line)

    def _number(self, name: str, flag: str) -> int:
        if name.isdecimal() and int(name):
            return int(name) - 1
        if self.is_conllu and name.upper() in CONLLU:
            return CONLLU.index(name.upper())
        known = f", or one of {', '.join(CONLLU)}.{nearest(name.upper(), CONLLU)}" if self.is_conllu else "."
        raise DataError(f"{self.source.path}: expected {flag} to be the number of a column, from 1{known} Got {name!r}.")


def is_conllu(source: Source) -> bool:
    """Whether a file's first word has the ten columns of CoNLL-U."""
    for line in islice(lines(source), 1000):
        if line.strip(_BLANK) and not line.startswith("#"):
            cells = line.split("\t")
            return len(cells) == len(CONLLU) and _NUMBER.match(cells[0]) is not None
    return False


def _tabbed(line: str) -> list[tuple[int, int]]:
    """Where the cells of a line begin and end."""
    spans, start = [], 0
    for cell in line.split("\t"):
        spans.append((start, start + len(cell)))
        start += len(cell) + 1
    return spans
