"""Pictures of labelled sequences: coloured text of words and characters, a timeline above the input of everything else."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any

from unrolled.data import video
from unrolled.data.sequences import written_label
from unrolled.inspection import annotated_video, coloured_text, timeline
from unrolled.tasks.labelling.generate import Labelled


def draw(folder: Path, number: int, one: Labelled, names: Several[str], frames_per_second: float | None = None) -> list[Path]:
    """Write NUMBER.html and NUMBER.png of a text, NUMBER.png of numbers, sound and video, of video also NUMBER.mp4; return the
    paths.

    Where the sequence has labels, what is wrong is marked. A sequence without a step has no picture.

    Args:
        folder: where to; made if it is missing.
        number: of the sequence, from 1.
        one: what a run said.
        names: the run's labels, whose order gives them their colours.
        frames_per_second: of a video, which is at the sequence's name, and is read once more: the rate of its steps.
    """
    inputs, steps = one.sequence.inputs, len(one.sequence)
    if not steps:
        return []
    labels = one.labels if isinstance(one.labels, list) else [one.labels] * steps
    truth: Any = one.sequence.labels
    if truth is not None:
        truth = truth if isinstance(truth, list) else [truth] * steps
        truth = [true if true != "" else own for true, own in zip(truth, labels, strict=True)]  # not labelled, so not wrong
    if not isinstance(inputs, (str, list)):
        path = folder / f"{number:06}.png"
        drawn = [timeline.draw(path, labels, truth, inputs=inputs, times=one.sequence.times, names=names)]
        if frames_per_second is not None:
            pictures = video.all_frames(one.sequence.name, frames_per_second)
            said, true = list(map(written_label, labels)), None if truth is None else list(map(written_label, truth))
            times = [step / frames_per_second for step in range(steps)]
            drawn.append(annotated_video.write(path.with_suffix(".mp4"), pictures, said, times, truth=true, names=names))
        return drawn
    apart = isinstance(inputs, list)
    said, true = (_spaced(map(written_label, several), None, apart) for several in (labels, labels if truth is None else truth))
    pieces = _spaced(inputs, " ", apart)
    return [coloured_text.draw(folder / f"{number:06}{end}", pieces, said, true, names=names) for end in (".html", ".png")]


def _spaced(several: Iterable[str], space: Any, apart: bool) -> list[Any]:
    """With a space behind each, where they are of words."""
    return [part for one in several for part in ([one, space] if apart else [one])]
