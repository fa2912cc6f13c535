"""Learns from Python's own standard library to colour programs: names, strings, comments, numbers, letter by letter."""

from __future__ import annotations

import io
import itertools
import json
import sysconfig
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unrolled.task import Demo, Preview

if TYPE_CHECKING:
    from unrolled.tasks.labelling.task import Run

LEARNED, UNSEEN, LONGEST, SHOWN = 600_000, 60_000, 60_000, 6_000
"""Characters to learn from, and of files that it never sees; of a file at most; of those that are drawn."""
KINDS = ("NAME", "OP", "NUMBER", "STRING", "COMMENT")
"""Of a token; what lies in none, spaces and line ends, is labelled O."""


def demo(folder: Path) -> Demo:
    """Writes folder/learn.jsonl and folder/unseen.jsonl."""
    folder.mkdir(parents=True)
    programs = labelled_programs()
    for name, characters in (("unseen", UNSEEN), ("learn", LEARNED)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            written = 0
            for program in programs:
                file.write(json.dumps(program, ensure_ascii=False) + "\n")
                written += len(program["text"])
                if written >= characters:
                    break
    return Demo(
        data=(str(folder / "learn.jsonl"),),
        settings={
            "validation_fraction": 0.05,
            "cell": "gru",
            "embedding_size": 32,
            "hidden_size": 96,
            "num_layers": 1,
            "dropout": 0.1,
            "longest": 300,
            "batch_size": 32,
            "learning_rate": 8e-3,
            "warmup_steps": 20,
            "max_steps": 400,
            "evaluate_every": 200,
            "sample_every": 100,
            "save_every": 200,
        },
        unseen=(str(folder / "unseen.jsonl"),),
        preview=lambda run: colour_unseen(run, folder),
    )


def labelled_programs() -> Iterator[dict]:
    """The modules of the standard library in an order of chance: `text`, and `spans` of its tokens."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    np.random.default_rng(0).shuffle(paths)  # type: ignore[arg-type]  # a list will do
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            if 0 < len(text) <= LONGEST:
                yield {"text": text, "spans": list(tokens(text))}
        except (OSError, UnicodeDecodeError, SyntaxError, tokenize.TokenError):
            continue  # a file of another encoding, or of tests that are not to be read


def tokens(text: str) -> Iterator[tuple[int, int, str]]:
    """The tokens of a program: first character, the one after the last, kind."""
    begins = list(itertools.accumulate(map(len, io.StringIO(text)), initial=0))  # of each line
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type].replace("FSTRING_START", "STRING").replace("FSTRING_MIDDLE", "STRING")
        kind = kind.replace("FSTRING_END", "STRING")
        start, end = (begins[row - 1] + column for row, column in (token.start, token.end))
        if kind in KINDS and start < end:
            yield start, end, kind


def without_recurrence(folder: Path) -> float:
    """The accuracy on the unseen programs of the best that can be said of a character alone: the label that it mostly has."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for character, label in _characters(folder / "learn.jsonl"):
        counts[character][label] += 1
    commonest = {character: own.most_common(1)[0][0] for character, own in counts.items()}
    right = [commonest.get(character) == label for character, label in _characters(folder / "unseen.jsonl")]
    return sum(right) / len(right)


def _characters(path: Path) -> Iterator[tuple[str, str]]:
    from unrolled.data import labelled_text
    from unrolled.data.sources import Source

    for sequence in labelled_text.read(Source(str(path))):
        yield from zip(sequence.inputs, sequence.labels, strict=True)


def colour_unseen(run: Run, folder: Path) -> Preview:
    """Label the unseen programs, count the right characters, and draw the beginning of the first one."""
    from unrolled.data.sequences import Sequence
    from unrolled.inspection import coloured_text
    from unrolled.tasks.labelling.task import in_one_line

    truth = list(run.read(folder / "unseen.jsonl", labelled=True))
    found = list(run.label(truth))
    right = [own == true for one in found for own, true in zip(one.labels, one.sequence.labels, strict=True)]
    first = found[0]
    text, labels, true = (each[:SHOWN] for each in (first.sequence.inputs, first.labels, first.sequence.labels))
    shown = [[None if label == "O" else label for label in several] for several in (labels, true)]
    for ending in (".html", ".png"):
        coloured_text.draw(run.folder / "pictures" / f"unseen{ending}", text, *shown, names=KINDS)
    lines = [
        in_one_line(first),
        "",
        f"{sum(right) / len(right):.2%} of {len(right):,} characters are right, of programs that it never saw.",
        f"Of each character alone, without recurrence: {without_recurrence(folder):.2%} at best.",
        f"The beginning of the first, coloured: {run.folder / 'pictures'}",
    ]

    def answer(line: str) -> str:
        return in_one_line(next(run.label([Sequence("what you typed", line)])))

    commands = (f"unrolled label {run.folder} {folder / 'unseen.jsonl'} --json", "unrolled train labelling YOUR_FILE.conllu")
    return Preview("a program that it has never seen", "\n".join(lines), commands, answer=answer)
