"""What only a trained captioner can do: `unrolled caption`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per photo.")
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a picture per photo: its attention map for each word.",
)
@click.option("--beam", type=flags.SENTENCES, help="Width of the beam search; 1 is greedy.  [default: the run's]")
@click.option(
    "--consensus",
    type=click.IntRange(min=0, max=1000),
    help="Samples per photo for minimum Bayes risk decoding: of the captions that the beam search found, the one most similar "
    "to the samples comes first; 0 takes the likeliest.  [default: the run's]",
)
@click.option("--captions", default=1, show_default=True, type=flags.SENTENCES, help="Captions for each photo.")
@click.option(
    "--temperature",
    type=flags.Number(min=0, min_open=True),
    help="Sample captions instead of searching for the likeliest, logits divided by this.",
)
@click.option("--seed", default=0, show_default=True, type=flags.SEED, help="Random seed of the samples.")
def caption(run: Path, images: tuple[str, ...], as_json: bool, show: Path | None, **settings: Any) -> None:
    """Describe photos; IMAGES are files and folders, or - for standard input.

    unrolled caption runs/my-run photo.jpg holiday/ --show pictures
    """
    from unrolled.inspection import attention_maps
    from unrolled.tasks import load

    skipped: list[str] = []

    def skip(problem: str) -> None:
        skipped.append(problem)
        click.echo(f"skipped: {problem}", err=True)

    given = {name: value for name, value in settings.items() if value is not None}
    captioned = load(run, task="captioning").caption(*images, skipped=skip, show=show is not None, **given)
    for number, one in enumerate(captioned, 1):
        if show:
            attention_maps.draw(show / f"{number:04}-{Path(one.image).stem}.png", one.photo, one.words, one.weights)
        if as_json:
            captions = [{"caption": each.text, "score": round(each.score, 4)} for each in one.captions]
            content = {"image": one.image, "captions": captions}
            click.echo(json.dumps(content, ensure_ascii=_is_not_utf8(one.image)))
        else:
            name = os.fsencode(one.image).decode("utf-8", "backslashreplace") if _is_not_utf8(one.image) else one.image
            for each in one.captions:
                click.echo(f"{name}\t{each.text}")
    if skipped:
        click.echo(f"skipped {len(skipped):,} images that cannot be read", err=True)


def _is_not_utf8(path: str) -> bool:
    """Whether a file's name has bytes that are not UTF-8, which Python holds as surrogates."""
    return any("\udc80" <= character <= "\udcff" for character in path)


COMMANDS = [caption]
