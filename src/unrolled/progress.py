"""What a person sees while training runs: a bar with rate and time left, evaluations and samples above it. All on stderr."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unrolled.config import TrainingConfig
from unrolled.task import Counters, Task


class Progress:
    """Draws one run. On a terminal a live bar; in a log file a line every so often; nothing when quiet.

    Of several processes that train together the first one draws; a launcher tells each its number as RANK.
    """

    def __init__(self, quiet: bool = False) -> None:
        quiet = quiet or os.environ.get("RANK", "0") != "0"
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=50)  # (when, step, units so far)
        self._units = 0
        self._last_line = 0.0

    def say(self, text: str) -> None:
        self.console.print(escape(text))

    @contextmanager
    def preparing(self, what: str) -> Iterator[None]:
        """Show, on a terminal, that something of unknown length is going on."""
        with self.console.status(escape(what)):
            yield

    @contextmanager
    def counting(self) -> Iterator[Callable[[str, int, int], None]]:
        """Progress bars on a terminal; yields a function to call with what is counted, how many are done, and the total."""
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            tasks: dict[str, Any] = {}

            def report(what: str, done: int, of: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=of)
                bar.update(tasks[what], completed=done)

            yield report

    @contextmanager
    def training(self, task: Task, counters: Counters) -> Iterator[None]:
        self._unit = task.unit
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[numbers]}"),
        )
        with Bar(*columns, console=self.console, refresh_per_second=5) as bar:
            self._bar = bar
            self._task = bar.add_task(f"step {counters.step}", total=1.0, left="", numbers="")
            yield
        self._bar = None

    def step(self, counters: Counters, config: TrainingConfig, count: int, report: dict[str, float]) -> None:
        if self.console.quiet:
            return
        now = time.perf_counter()
        self._units += count
        self._recent.append((now, counters.step, self._units))
        done = counters.step / config.max_steps
        if config.max_seconds:
            done = max(done, counters.seconds / config.max_seconds)
        then, first_step, first_units = self._recent[0]
        span = now - then
        if counters.step == first_step:  # the first after a pause: nothing to tell a rate from yet
            return
        rate = (self._units - first_units) / span
        per_step = span / (counters.step - first_step)
        seconds_left = per_step * (config.max_steps - counters.step)
        if config.max_seconds:
            seconds_left = min(seconds_left, config.max_seconds - counters.seconds)
        hidden = {"gradient_norm", "learning_rate", *(name for name in report if "/" in name)}  # a part of the model each
        shown = {name: f"{value:,}" if isinstance(value, int) else f"{value:.3f}" for name, value in report.items()}
        parts = (f"{_label(name)} {value}" for name, value in shown.items() if name not in hidden)
        numbers = "  ".join([f"{rate:,.0f} {self._unit}/s", *parts])
        if self._bar:
            left = f"ETA {_clock(seconds_left)}"
            step = f"step {counters.step:,}"
            self._bar.update(self._task, completed=min(1.0, done), description=step, left=left, numbers=numbers)
        elif now - self._last_line > 10:
            self._last_line = now
            self.say(f"step {counters.step:,}  {done:4.0%}  ETA {_clock(seconds_left)}  {numbers}")

    def evaluated(self, counters: Counters, metrics: dict[str, float]) -> None:
        if metrics:
            best = "  (best so far)" if counters.best_step == counters.step else ""
            text = "  ".join(f"{_label(name)} {value:.3f}" for name, value in metrics.items())
            self.console.print(f"[bold]step {counters.step:,}[/]  validation  {text}{best}")
        self._recent.clear()  # an evaluation is not training speed

    def sample(self, step: int, text: str) -> None:
        self.panel(text, f"sample after step {step:,}")
        self._recent.clear()

    def panel(self, text: str, title: str) -> None:
        self.console.print(Panel(escape(text), title=escape(title), title_align="left", border_style="dim"))

    def table(self, rows: dict[str, Any]) -> None:
        width = max(map(len, rows))
        for name, value in rows.items():
            self.say(f"{name:<{width}}  {value}")


def _label(name: str) -> str:
    return {"bits_per_character": "bits/char"}.get(name, name.replace("_", " "))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
