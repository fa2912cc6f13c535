"""What only a trained labeller can do: `unrolled label`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from unrolled.errors import UnrolledError

if TYPE_CHECKING:
    from unrolled.tasks.labelling.generate import Labelled


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option("--word-column", metavar="COLUMN", help="Column of the words.  [default: the run's]")
@click.option("--label-column", metavar="COLUMN", help="Column for the labels of words.  [default: the run's]")
@click.option("--encoding", metavar="NAME", help="Encoding of text files, such as latin-1 or auto.  [default: the run's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per sequence; with --follow per step.")
@click.option(
    "--follow",
    is_flag=True,
    help="Label while it arrives: numbers as CSV on standard input or in a file that grows; video from a camera (/dev/video0), "
    "a stream (rtsp://...), a pipe or a file that grows.",
)
@click.option(
    "--format",
    "form",
    metavar="NAME",
    help="With --follow, of video: FFmpeg's name of its format or device, such as avfoundation.  [default: as it begins]",
)
@click.option(
    "--show",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw each sequence: coloured text (HTML and PNG), or a timeline of the labels above the numbers; of a video also the "
    "video itself with its labels (MP4).",
)
def label(
    run: Path,
    inputs: tuple[str, ...],
    as_json: bool,
    follow: bool,
    form: str | None,
    show: Path | None,
    **columns: str | None,
) -> None:
    """Label INPUT: files, folders, patterns, or - for standard input.

    Files of columns come back with the labels filled in; everything else as CSV of sequence, step or time, label, probability.

    unrolled label runs/my-run sentences.conllu > labelled.conllu

    sensor | unrolled label runs/my-run --follow

    unrolled label runs/my-run /dev/video0 --follow
    """
    from unrolled.data import sources
    from unrolled.tasks import load

    if len(inputs) > 1 and follow:
        raise click.UsageError(f"--follow expected one INPUT, or none for standard input, got {len(inputs)}.")
    if form and not follow:
        raise click.UsageError("--format expected --follow beside it: files say themselves what they are.")
    if show and (follow or any(sources.kind_of(one) == "pipe" for one in inputs)):
        raise click.UsageError("--show expected files as INPUT, which it reads a second time, got what can be read once.")
    model = load(run, task="labelling", **{name: value for name, value in columns.items() if value is not None})
    if not inputs and not follow:
        raise click.UsageError("expected at least one INPUT, got none. - is standard input.")
    if show:
        from unrolled.tasks.labelling.show import draw

        for number, one in enumerate(model.label(inputs), 1):
            draw(show, number, one, model.labels, model.config.frames_per_second if model.encoding.kind == "video" else None)
    if follow:
        _follow(model, inputs[0] if inputs else "-", form, as_json)
        return
    if as_json:
        for one in model.label(inputs):
            click.echo(json.dumps(_as_object(one, model.labels), ensure_ascii=False))
        return
    per_step = model.config.per == "step"
    if model.encoding.kind == "words" and per_step:
        for line in model.fill(inputs):
            click.echo(line)
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    clock = "step"
    for number, one in enumerate(model.label(inputs)):
        if number == 0:
            clock = "step" if one.sequence.times is None else "time"
            table.writerow(["sequence", *([clock] if per_step else []), "label", "probability"])
        table.writerows(_rows(one, model.labels, per_step))


def _follow(model: Any, path: str, form: str | None, as_json: bool) -> None:
    """A line for each step as it arrives; until the input ends, or somebody presses Ctrl-C. Then how long steps took."""
    import time
    from collections import deque

    from unrolled.data.sequences import written_label
    from unrolled.tasks.labelling.live import Follower

    rate = model.config.frames_per_second if model.encoding.kind == "video" else None

    def say(step: int, own: str | frozenset[str], probabilities: Any) -> None:
        written = _written(own, probabilities, model.labels)
        if as_json:
            several = [round(float(probabilities[model.labels.index(one)]), 4) for one in _chosen(own)]
            line = {"step": step, **({} if rate is None else {"time": round(step / rate, 6)})}
            line |= {"label": own, "probability": several[0]} if isinstance(own, str) else {}
            line |= {} if isinstance(own, str) else {"labels": _chosen(own), "probabilities": several}
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            table.writerow([step if rate is None else f"{step / rate:.3f}", written_label(own), written])
        sys.stdout.flush()

    follower = Follower(model.model, model.encoding, model.config)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if not as_json:
        table.writerow(["step" if rate is None else "time", "label", "probability"])
        sys.stdout.flush()
    if follower.ahead:
        click.echo(f"each label comes {follower.ahead} steps later: the convolution looks that far ahead", err=True)
    latencies: deque[float] = deque(maxlen=1_000_000)
    code = 0
    try:
        for name, at, inputs in model.arriving(path, form):
            for one in follower.step(inputs, name):
                say(*one)
            latencies.append(time.perf_counter() - at)
    except KeyboardInterrupt:
        code = 130  # as of every command that is interrupted; without an error, for this is how one ends it
    except UnrolledError:
        _say_latency(follower.read, sorted(latencies))
        raise
    for one in follower.finish():
        say(*one)
    _say_latency(follower.read, sorted(latencies))
    if code:
        sys.exit(code)


def _say_latency(steps: int, seconds: list[float]) -> None:
    """Of how many steps, and the latencies of the last million in order of length."""
    if seconds:
        median, p99 = seconds[len(seconds) // 2], seconds[min(len(seconds) * 99 // 100, len(seconds) - 1)]
        latency = f"median {median * 1e3:.3f} ms, p99 {p99 * 1e3:.3f} ms"
        click.echo(f"{steps:,} steps; latency from arrival to label: {latency}", err=True)


def _rows(one: Labelled, names: list[str], per_step: bool) -> Iterator[list[Any]]:
    """One for each step, or one for the sequence."""
    from unrolled.data.sequences import written_label

    if not per_step:
        yield [_name(one), written_label(one.labels), _written(one.labels, one.probabilities, names)]
        return
    times: Iterable[Any] = range(len(one.labels)) if one.sequence.times is None else [f"{t:.3f}" for t in one.sequence.times]
    for time, own, probabilities in zip(times, one.labels, one.probabilities, strict=True):
        yield [_name(one), time, written_label(own), _written(own, probabilities, names)]


def _name(one: Labelled) -> str:
    """The sequence's name, of which a path that is no UTF-8 may be a part, as it can be written."""
    return one.sequence.name.encode(errors="replace").decode()


def _written(own: str | frozenset[str], probabilities: Any, names: list[str]) -> str:
    """The probability of a label; of several those of each, with | between them."""
    return "|".join(f"{probabilities[names.index(label)]:.4f}" for label in _chosen(own))


def _chosen(own: str | frozenset[str]) -> list[str]:
    """The labels of a step or a sequence; a sequence without a step has none."""
    return sorted(own) if isinstance(own, frozenset) else [own] if own else []


def _as_object(one: Labelled, names: list[str]) -> dict[str, Any]:
    """`sequence`, its `words` or `text` where it has these, and of each step, or of the whole, label and probability."""
    found: dict[str, Any] = {"sequence": _name(one)}
    if isinstance(one.sequence.inputs, (list, str)):
        found["words" if isinstance(one.sequence.inputs, list) else "text"] = one.sequence.inputs
    if one.sequence.times is not None and isinstance(one.labels, list):
        found["times"] = [round(time, 6) for time in one.sequence.times.tolist()]

    def both(own: str | frozenset[str], probabilities: Any) -> tuple[Any, Any]:
        numbers = [round(float(probabilities[names.index(label)]), 4) for label in _chosen(own)]
        return (own or None, next(iter(numbers), None)) if isinstance(own, str) else (_chosen(own), numbers)

    if isinstance(one.labels, list):
        steps = [both(own, row) for own, row in zip(one.labels, one.probabilities, strict=True)]
        return {**found, "labels": [own for own, _ in steps], "probabilities": [each for _, each in steps]}
    own, probability = both(one.labels, one.probabilities)
    return {**found, "label": own, "probability": probability}


COMMANDS = [label]
