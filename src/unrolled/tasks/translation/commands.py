"""What only a trained translator can do: `unrolled translate`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", default="-", type=click.Path(allow_dash=True))
@click.option("--beam", type=flags.SENTENCES, help="Width of the beam search; 1 is greedy.  [default: the run's]")
@click.option(
    "--length-power",
    type=flags.Number(min=0),
    help="Length normalisation: log probability divided by length ** this.  [default: the run's]",
)
@click.option(
    "--coverage", type=flags.Number(min=0), help="Weight of the coverage penalty; 0 turns it off.  [default: the run's]"
)
@click.option(
    "--n-best",
    "n_best",
    type=flags.SENTENCES,
    help="Print this many of each line, best first, with scores; a narrower beam is widened to it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a picture per line: which source tokens each token of the translation attended to.",
)
def translate(run: Path, file: str, n_best: int | None, as_json: bool, show: Path | None, **settings: Any) -> None:
    """Translate FILE, or standard input: a line in, a line out, in order. What is typed is answered line by line.

    unrolled translate runs/my-run letter.txt > translated.txt
    """
    from unrolled.inspection import alignment
    from unrolled.tasks import load

    given = {name: value for name, value in settings.items() if value is not None} | {"n_best": n_best or 1}
    model = load(run, task="translation")
    count = 0
    for lines in _lines_at_hand(file):
        for one in model.translate(lines, **given):
            count += 1
            if one.left_out:
                click.echo(
                    f"line {count:,}: cut to its first {model.config.longest} tokens, {one.left_out:,} more are not read",
                    err=True,
                )
            if show:
                alignment.draw(show / f"{count:06}.png", *model.attention(one))
            for text in _printed(one, as_json, n_best):
                click.echo(text)
        sys.stdout.flush()


def _printed(one: Any, as_json: bool, n_best: int | None) -> Iterator[str]:
    if as_json:
        translations = [{"translation": each.text, "score": round(each.score, 4)} for each in one.translations]
        yield json.dumps({"source": one.source, "translations": translations}, ensure_ascii=False)
    elif n_best is None:
        yield one.translations[0].text
    else:
        yield from (f"{each.score:.4f}\t{each.text}" for each in one.translations)


def _lines_at_hand(file: str) -> Iterator[list[str]]:
    """Lines, as many at a time as can be read without waiting: one that is typed, thousands of a file."""
    from unrolled.data.sources import kind_of
    from unrolled.errors import DataError

    kind = kind_of(file)
    if kind in ("nothing", "folder"):
        raise DataError(f"{file}: expected a file of lines, " + ("got a folder." if kind == "folder" else "there is none."))
    try:
        opened = 0 if file == "-" else os.path.expanduser(file)
        with open(opened, "rb", buffering=0, closefd=file != "-") as unbuffered:  # whose read returns what there is
            rest, number = b"", 0
            while block := unbuffered.read(1 << 16):
                *several, rest = (rest + block).split(b"\n")
                yield [_text(line, file, number + n) for n, line in enumerate(several, 1)]
                number += len(several)
            if rest:
                yield [_text(rest, file, number + 1)]
    except OSError as error:
        raise DataError(f"{'standard input' if file == '-' else file}: cannot be read ({error.strerror}).") from None


def _text(line: bytes, file: str, number: int) -> str:
    from unrolled.errors import DataError

    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        name = "standard input" if file == "-" else file
        raise DataError(
            f"{name}, line {number:,}: expected UTF-8 text, got an invalid byte at {error.start}. Convert it, as with iconv."
        ) from None


COMMANDS = [translate]
