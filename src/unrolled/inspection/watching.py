"""Gradients watched while a run trains: how far back they reach, in the reports, and a line when that goes wrong.

On the CPU the kernels note the norms on their way. To tell what the last step's loss alone comes to (see `gradient_flow`) takes
one more backward pass of the recurrent layers, about a third of a step, so that of `EVERY` steps one is watched. Nothing is
drawn from random generators, and no weight comes out different.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unrolled.config import TrainingConfig
from unrolled.inspection.gradient_flow import EXPLODED, GONE, Flow, Recorder

EVERY = 50
"""Steps from one that is watched to the next."""
_PATIENCE = 6
"""Watched steps in a row that have to say the same before it is said: gradients of the first steps reach nowhere."""
_WASTE = 4
"""By so many times the window has to be longer than what reaches."""


class Watch:
    """Watches nothing unless told to.

    Args:
        model: in training.
        config: its `watch` says what, its `k1` and `k2`, where it has them, how far back gradients are taken.
        device: where it computes. Only on the CPU do kernels note norms; elsewhere a watched step runs in Python, and only the
            steps with an evaluation are watched.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self._recorder = Recorder(model) if config.watch == "gradients" else None
        self._every = EVERY if device.type == "cpu" else config.evaluate_every
        settings: Any = config
        self._window = getattr(settings, "k2", None) or getattr(settings, "k1", None)
        self._window_name = "k2" if getattr(settings, "k2", None) else "k1"
        self._report: dict[str, float] = {}
        self._in_a_row: dict[str, list[tuple[int, str]]] = {"vanishes": [], "explodes": []}
        self._said: set[str] = set()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the forward pass of step `number`."""
        if self._recorder is None or number % self._every:
            yield
            return
        with self._recorder:
            yield

    def report(self) -> dict[str, float]:
        """After the backward pass: of the last watched step, for each layer `gradient_reach/LAYER`, the steps back from which
        on under 1% is left (all there are where more is), `gradient_factor/LAYER` per step, and `gradient_norm/LAYER`, the
        mean ||dL/dh_t||; `gradient_reach` is the shortest reach.
        """
        flows = self._recorder.flows() if self._recorder else []
        if flows:
            reaches = {flow.name: len(flow.left) if flow.reach is None else flow.reach for flow in flows}
            self._report = {"gradient_reach": min(reaches.values())}
            for flow in flows:
                self._report[f"gradient_reach/{flow.name}"] = reaches[flow.name]
                if flow.factor is not None:
                    self._report[f"gradient_factor/{flow.name}"] = flow.factor
                self._report[f"gradient_norm/{flow.name}"] = sum(flow.everything) / len(flow.everything)
            self._note(flows)
        return self._report

    def warning(self) -> str:
        """What is wrong, once; nothing most of the time."""
        for what, noted in self._in_a_row.items():
            if len(noted) >= _PATIENCE and what not in self._said:
                self._said.add(what)
                return max(noted)[1]
        return ""

    def _note(self, flows: list[Flow]) -> None:
        of_last = [flow for flow in flows if flow.of_last_step] or flows
        grown = max(of_last, key=lambda flow: max(flow.left))
        most = max(grown.left)
        if most >= EXPLODED:
            at = grown.left.index(most)
            self._keep(
                "explodes",
                int(most),
                f"{at} steps back the gradient is {most:,.3g} times what it was at the loss "
                f"({grown.name}): it explodes, and only clipping holds it. An LSTM or GRU, or a lower learning rate, helps.",
            )
        else:
            self._in_a_row["explodes"].clear()
        longest = max(of_last, key=lambda flow: flow.reach if flow.reach is not None else len(flow.left))
        if longest.of_last_step and longest.reach is not None and _WASTE * longest.reach <= len(longest.left):
            text = f"from {longest.reach} steps back on under {GONE:.0%} of the gradient is left ({longest.name}): "
            if self._window:
                text += f"{self._window_name} = {self._window} may be wasted; `unrolled inspect truncation` measures it."
            else:
                text += f"sequences of {len(longest.left)} steps are longer than what is learned from."
            self._keep("vanishes", longest.reach, text)
        else:
            self._in_a_row["vanishes"].clear()

    def _keep(self, what: str, size: int, text: str) -> None:
        self._in_a_row[what] = [*self._in_a_row[what], (size, text)][-_PATIENCE:]
