"""Text with labels as JSON lines: one object a line, of characters or of words.

    {"text": "def f():", "spans": [[0, 3, "keyword"], [4, 5, "name"]]}
    {"text": "abc", "labels": ["x", "y", "x"]}
    {"text": "Wie geht es?", "label": "German"}
    {"words": ["It", "rains"], "labels": ["PRON", "VERB"]}

A span is its first character, the one after its last, and its label; characters outside all spans are labelled O, or, where
there may be several labels at once, by none. `labels` has one for each step (of several a list), `label` one for the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from unrolled.data.pairs import lines
from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError

OUTSIDE = "O"
"""The label of what lies in no span."""


def is_json(source: Source) -> bool:
    """Whether a file is one of JSON lines, by its ending."""
    return source.path.removesuffix(".gz").lower().endswith((".jsonl", ".ndjson"))


def has_words(source: Source) -> bool:
    """Whether the first object of a file of JSON lines has `words`."""
    first = next((line for line in lines(source) if line.strip()), "")
    return "words" in _parsed(first, f"{source.path}, line 1") if first else False


def read(source: Source, *, multi: bool = False) -> Iterator[Sequence]:
    """The labelled texts of a file of JSON lines, or a file of plain text as one, without labels.

    Raises:
        DataError: a line that is no such object; spans that overlap, are out of order or reach beyond the text.
    """
    if not is_json(source):
        yield Sequence(source.path, "".join(source.text()))
        return
    for number, line in enumerate(lines(source), 1):
        if line.strip():
            where = f"{source.path}, line {number:,}"
            yield _sequence(_parsed(line, where), where, multi)


def filled(source: Source, labels: Iterable[list[str]]) -> Iterator[str]:
    """The file's lines with the labels of each object as its `labels`, and everything else as it was."""
    each = iter(labels)
    for number, line in enumerate(lines(source), 1):
        if line.strip():
            one = _parsed(line, f"{source.path}, line {number:,}")
            yield json.dumps({**one, "labels": next(each)}, ensure_ascii=False)


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON object, got {line[:40]!r} ({error}).") from None
    if not isinstance(parsed, dict):
        raise DataError(f"{where}: expected a JSON object, got {line[:40]!r}.")
    if "\\ud" in line.lower():
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # half of a pair: no character, and no file can be written with it
            half = error.object[error.start]
            raise DataError(f"{where}: expected characters, got half of a pair, {half!r}. Remove it.") from None
    return parsed


def _sequence(one: dict[str, Any], where: str, multi: bool) -> Sequence:
    inputs = one.get("words", one.get("text"))
    if not (isinstance(inputs, str) or (isinstance(inputs, list) and all(isinstance(word, str) for word in inputs))):
        raise DataError(f'{where}: expected "text", a string, or "words", a list of strings, got {str(inputs)[:40]!r}.')
    if "spans" in one:
        return Sequence(where, inputs, _of_spans(one["spans"], len(inputs), where, multi))
    if "labels" in one:
        labels = one["labels"]
        if not isinstance(labels, list) or len(labels) != len(inputs):
            got = len(labels) if isinstance(labels, list) else repr(labels)[:40]
            raise DataError(f'{where}: expected "labels" to be a list of {len(inputs):,}, one for each step, got {got}.')
        return Sequence(where, inputs, [_label(label, where, multi) for label in labels])
    return Sequence(where, inputs, _label(one["label"], where, multi) if "label" in one else None)


def _label(label: Any, where: str, multi: bool) -> str | frozenset[str]:
    several: list[Any] = label if multi and isinstance(label, list) else [label]
    if not all(isinstance(one, str) for one in several):
        raise DataError(f"{where}: expected a label to be a string{', or a list of them' * multi}, got {str(label)[:40]!r}.")
    return frozenset(several) if multi else several[0]


def _of_spans(spans: Any, length: int, where: str, multi: bool) -> list:
    steps: list[set[str]] = [set() for _ in range(length)]
    before = (0, 0)
    for span in spans if isinstance(spans, list) else [spans]:
        match span:
            case [int(start), int(end), str(label)] if 0 <= start < end:
                pass
            case _:
                raise DataError(f"{where}: expected spans [start, end, label] with start before end, got {str(span)[:60]}.")
        if end > length:
            raise DataError(f"{where}: the span {span} reaches beyond the text, which has {length:,} steps.")
        if not multi and start < before[1]:
            problem = "is out of order, behind" if start < before[0] else "overlaps"
            raise DataError(
                f"{where}: the span {span} {problem} the one before, from {before[0]} to {before[1]}. Sort them, and give each "
                "step one label; several at once need --multi."
            )
        before = (start, end)
        for step in steps[start:end]:
            step.add(label)
    return [frozenset(step) if multi else next(iter(step), OUTSIDE) for step in steps]
