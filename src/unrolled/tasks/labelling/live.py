"""Labelling a sequence while it arrives, one step at a time, with the recurrent state carried."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrolled.data import live_rows, live_video
from unrolled.data.live_rows import Arrived
from unrolled.data.sequences import Sequence
from unrolled.data.tables import LABEL, TIME
from unrolled.errors import ConfigError, RunError
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.generate import require_finite
from unrolled.tasks.labelling.model import Labeller, Numbers
from unrolled.tasks.labelling.read import look_of


class Live(NamedTuple):
    """What is said of one step."""

    step: int
    labels: str | frozenset[str]
    """Per sequence: of the whole as far as it was read."""
    probabilities: np.ndarray
    """(L,), as `Labelled.probabilities` has them."""


class Follower:
    """A labeller of numbers or video that takes one step at a time; the labels are those that it gives the whole sequence.

    A front that looks `ahead` some steps delays each label by as many. A step costs the same however many came before.

    Args:
        model: in evaluation mode.
        encoding: the run's.
        config: the run's.

    Raises:
        RunError: the model needs the whole sequence, or reads something else than numbers.
    """

    def __init__(self, model: Labeller, encoding: Encoding, config: Config) -> None:
        if (reason := _needs_the_end(model, encoding, config)) is not None:
            raise RunError(reason)
        self.model, self.encoding, self.config = model, encoding, config
        front = model.front
        looks_ahead: Any = front.map if isinstance(front, Numbers) and front.kind == "conv" else None
        self.ahead: int = looks_ahead.padding[0] if looks_ahead is not None else 0
        self._window: deque[Tensor] = deque(maxlen=2 * self.ahead + 1)
        self._device = next(model.parameters()).device
        self._state: Any = None
        self.read = self._said = 0

    def step(self, inputs: np.ndarray, name: str = "") -> list[Live]:
        """Take one step, called `name` in errors; return what can be said now: one label, or while it looks ahead none.

        Args:
            inputs: (F,) numbers. A picture may be (height, width, channels), (height, width) of one channel, or all its
                numbers in one row, channels within columns within rows.
            name: of the step.

        Raises:
            DataError: a row of another width than those of training, or a picture of another size.
        """
        row, shape = np.asarray(inputs, dtype=np.float32), self.encoding.shape
        if row.size == np.prod(shape) and list(row.shape) in (shape[:-1], [row.size]):
            row = row.reshape(shape)
        self.encoding.require_fit(Sequence(name or f"row {self.read + 1:,}", row[None]))
        self._window.append(torch.from_numpy(row).to(self._device))
        self.read += 1
        return [self._say()] if self.read > self.ahead else []

    def finish(self) -> list[Live]:
        """The labels of the last steps, now that nothing comes after them."""
        return [self._say() for _ in range(self.read - self._said)]

    @torch.inference_mode()
    def _say(self) -> Live:
        window = torch.stack(tuple(self._window)).unsqueeze(
            0
        )  # (1, up to 2 * ahead + 1, F), of pictures in place of F their shape
        place = self._said - (self.read - len(self._window))
        lengths = torch.tensor([window.shape[1]], device=self._device)
        h = self.model.front({"numbers": window, "lengths": lengths})[:, place]  # (1, F)
        if self.model.layers is not None:
            h, self._state = self.model.layers.step(h, self._state)  # type: ignore[operator]
        scores = self.model.output(h)[0].float()  # (L,)
        step, self._said = self._said, self._said + 1
        names = self.encoding.labels
        if self.config.multi:
            chosen = frozenset(name for name, on in zip(names, (scores > 0).tolist(), strict=True) if on)
            said = Live(step, chosen, torch.sigmoid(scores).cpu().numpy())
        else:
            said = Live(step, names[int(scores.argmax())], torch.softmax(scores, -1).cpu().numpy())
        require_finite(f"row {step + 1:,}", said.probabilities)
        return said


def arriving(encoding: Encoding, config: Config, path: str, form: str | None = None) -> Iterator[Arrived]:
    """What there is to label, as it arrives: rows of numbers, or a video's pictures, at the run's rate.

    Args:
        encoding: the run's.
        config: the run's.
        path: as of `data.live_rows.rows`, or of `data.live_video.arriving`.
        form: of video, its format or device.

    Raises:
        ConfigError: a format of something else than video.
        DataError: it cannot be read.
    """
    if encoding.kind == "video":
        return live_video.arriving(path, config.frames_per_second, look_of(config), form)
    if form is not None:
        raise ConfigError(f"format: expected none for a run of {encoding.kind}, got {form}. It says how video is to be read.")
    return live_rows.rows(path, (TIME, LABEL, config.label_column or LABEL, config.sequence_column))


def _needs_the_end(model: Labeller, encoding: Encoding, config: Config) -> str | None:
    if encoding.kind not in ("numbers", "video"):
        return f"live labels expected a run of numbers or video, got one of {encoding.kind}. Label its files without --follow."
    if model.layers is not None and config.bidirectional:
        return "live labels expected a run that reads in one direction, got a bidirectional one. Train with --no-bidirectional."
    if config.crf:
        return "live labels expected a run without a CRF, which waits for the end of the sequence. Train with --no-crf."
    if model.layers is None and config.per == "sequence":
        return "live labels expected a recurrent network, got cell = none, a mean over all steps. Train with another --cell."
    return None
