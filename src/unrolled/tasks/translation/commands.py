"""What only a trained translator can do: `unrolled translate`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags


def _encoding(ctx: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    from unrolled.data.sources import check_encoding

    try:
        return name and check_encoding(name)
    except ValueError as error:
        raise click.BadParameter(f"expected {error}, got {name!r}.") from None


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
@click.option(
    "--encoding",
    callback=_encoding,
    help="Of FILE, such as utf-16, latin-1 or cp1252; auto goes by its byte order mark.  [default: the run's]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a picture per line: which source tokens each token of the translation attended to.",
)
def translate(
    run: Path, file: str, n_best: int | None, encoding: str | None, as_json: bool, show: Path | None, **settings: Any
) -> None:
    """Translate FILE, or standard input: a line in, a line out, in order. What is typed is answered line by line.

    FILE may be packed by gzip; of a table, the column before the first tab is translated.

    unrolled translate runs/my-run letter.txt > translated.txt
    """
    from unrolled.inspection import alignment
    from unrolled.tasks import load
    from unrolled.tasks.translation import lines

    given = {name: value for name, value in settings.items() if value is not None} | {"n_best": n_best or 1}
    model = load(run, task="translation")
    count = 0
    for several in lines.at_hand(file, encoding or model.config.encoding, say=partial(click.echo, err=True)):
        for one in model.translate(several, **given):
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


COMMANDS = [translate]
