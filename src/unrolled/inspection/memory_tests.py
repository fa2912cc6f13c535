"""Which cell remembers how far: the adding problem and copy memory, each learned from scratch within a budget."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from unrolled.data import synthetic
from unrolled.errors import ConfigError
from unrolled.layers import LAYERS

Test = Literal["adding", "copy"]
EVERY = 100
"""Iterations whose losses are averaged. Every batch is new, so that this is a loss on data not seen before."""
SOLVED = 1e-3
"""A mean loss below this is a solution: a 170th of what a guess has."""
BATCH, LEARNING_RATE, CLIP = 20, 5e-3, 1.0
_BEYOND = 0.9
"""A share of the guess's loss below which something was remembered."""
_TITLES = {"adding": "Adding problem", "copy": "Copy memory"}
_COLOURS = {"rnn": "#D55E00", "gru": "#0072B2", "lstm": "#009E73"}
_PUBLISHED = {
    "adding": (
        "Published (Bai et al. 2018, T = 600):",
        "RNN 0.177, LSTM 0.164, GRU 0.00005",
    ),
    "copy": (
        "Published (Bai et al. 2018, T = 1000):",
        "RNN 0.0202, LSTM 0.0204, GRU 0.0197, a guess 0.0204",
    ),
}


@dataclass(frozen=True)
class Trial:
    """One cell that learned, or did not learn, one test of one length."""

    test: Test
    steps: int
    """T, the distance that is to be bridged."""
    cell: str
    baseline: float
    """The loss of a guess that remembers nothing."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(iteration, mean loss of the hundred iterations up to it)."""
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The last one; infinite where not even a hundred iterations were done."""
        return self.losses[-1][1] if self.losses else math.inf

    @property
    def best(self) -> float:
        return min((loss for _, loss in self.losses), default=math.inf)

    @property
    def solved_at(self) -> int | None:
        """The iteration by which the mean loss was below `SOLVED`; None if it never was."""
        return next((iteration for iteration, loss in self.losses if loss < SOLVED), None)


def measure(
    cells: Sequence[str] = ("rnn", "gru", "lstm"),
    *,
    adding: Sequence[int] = (200, 600),
    copy: Sequence[int] = (100,),
    hidden_size: int = 64,
    iterations: int = 7000,
    seconds: float = 570.0,
    seed: int = 0,
    report: Callable[[str, int, int], None] | None = None,
) -> Iterator[Trial]:
    """Train every cell on every test from fresh weights; yield how each went as soon as it is over, the shortest tests first.

    Adam at 5e-3 on batches of 20, gradients clipped at 1. A cell stops when it has solved its test. Of the time, each trial
    gets an equal share of what is left, so that all of them together keep to it; `seconds=math.inf` makes the result a
    function of the seed alone.

    Args:
        cells: of `rnn`, `lstm` and `gru`.
        adding: lengths of the adding problem.
        copy: lengths of copy memory.
        hidden_size: H.
        iterations: at most, for each trial.
        seconds: for all of them.
        seed: of weights and data.
        report: called with what is being trained, the iterations done, and `iterations`.

    Raises:
        ConfigError: an unknown cell, a length that the test cannot have, or nothing to do.

    >>> [gru] = measure(["gru"], adding=[5], copy=[], hidden_size=8, iterations=100, seconds=math.inf)
    >>> gru.losses[0][0], gru.solved_at
    (100, None)
    """
    asked: list[tuple[Test, int]] = [*(("adding", steps) for steps in adding), *(("copy", steps) for steps in copy)]
    _check(cells, asked)
    trials = sorted(itertools.product(asked, cells), key=lambda one: one[0][1])
    began = time.perf_counter()
    for number, ((test, steps), cell) in enumerate(trials):
        left = max(0.0, seconds - (time.perf_counter() - began)) / (len(trials) - number)
        yield _learn(test, steps, cell, hidden_size, iterations, left, seed, report)


def _check(cells: Sequence[str], asked: Sequence[tuple[Test, int]]) -> None:
    if unknown := [cell for cell in cells if cell not in LAYERS]:
        raise ConfigError(f"cell: expected one of {', '.join(LAYERS)}, got {unknown[0]!r}.", ["cell"])
    if not cells or not asked:
        raise ConfigError("memory tests expected a cell and a length of adding or copy, got none.")
    for test, steps in asked:
        least = {"adding": 2, "copy": 1}[test]
        if steps < least:
            raise ConfigError(f"{test}: expected a length of at least {least}, got {steps}.", [test])


class _Model(nn.Module):
    """Recurrent layer and linear output: at the last step for adding, at every step for copying."""

    def __init__(self, test: Test, cell: str, hidden_size: int) -> None:
        super().__init__()
        inputs, outputs = (2, 1) if test == "adding" else (synthetic.CLASSES, synthetic.CLASSES)
        self.test = test
        self.layer = LAYERS[cell](inputs, hidden_size)
        self.output = nn.Linear(hidden_size, outputs)

    def loss(self, batch: synthetic.Batch) -> Tensor:
        hidden, _ = self.layer(batch.inputs)  # (T, B, H); symbols are one-hot vectors
        if self.test == "adding":
            return mse_loss(self.output(hidden[-1]).squeeze(-1), batch.targets)
        return cross_entropy(self.output(hidden).flatten(0, 1), batch.targets.flatten())


def _learn(
    test: Test,
    steps: int,
    cell: str,
    hidden_size: int,
    iterations: int,
    seconds: float,
    seed: int,
    report: Callable[[str, int, int], None] | None,
) -> Trial:
    make = synthetic.adding if test == "adding" else synthetic.copy_memory
    baseline = synthetic.adding_baseline() if test == "adding" else synthetic.copy_baseline(steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Model(test, cell, hidden_size)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    losses: list[tuple[int, float]] = []
    recent: list[float] = []
    began = time.perf_counter()
    for iteration in range(1, iterations + 1):
        loss = model.loss(make(steps, BATCH, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        recent.append(float(loss.detach()))
        if iteration % EVERY == 0:
            losses.append((iteration, sum(recent) / len(recent)))
            recent.clear()
            if report:
                report(f"{test} {steps} {cell}", iteration, iterations)
            if losses[-1][1] < SOLVED or time.perf_counter() - began > seconds:
                break
    return Trial(test, steps, cell, baseline, losses, time.perf_counter() - began)


def numbers(trials: Sequence[Trial]) -> dict[str, Any]:
    """What was measured, ready for JSON: a `sentence`, and the `trials`."""
    of_each = {
        f"{one.test} {one.steps} {one.cell}": {
            "baseline": one.baseline,
            "solved_at": one.solved_at,
            "best": one.best if one.losses else None,
            "seconds": one.seconds,
            "losses": one.losses,
        }
        for one in trials
    }
    return {"sentence": _sentence(trials), "trials": of_each}


def shown(trials: Sequence[Trial]) -> dict[str, str]:
    """The same for a person, a line for each trial: how far the cell came, beside the guess that remembers nothing."""
    lines = {}
    for one in trials:
        verdict = "solved" if one.solved_at else "not solved" if one.best < _BEYOND * one.baseline else "no better than a guess"
        count = one.losses[-1][0] if one.losses else 0
        line = f"loss {one.loss:.5f}, a guess {one.baseline:.4f}; {count:,} iterations, {one.seconds:.0f} s: {verdict}"
        lines[f"{one.test} {one.steps} {one.cell}"] = line
    return lines


def _sentence(trials: Sequence[Trial]) -> str:
    parts = []
    for cell in dict.fromkeys(one.cell for one in trials):
        solved = [
            f"{one.test} over {one.steps} steps ({one.solved_at:,})" for one in trials if one.cell == cell and one.solved_at
        ]
        parts.append(f"{cell.upper()} solves {' and '.join(solved) or 'nothing'}")
    told = " (in brackets after how many iterations)" if any(one.solved_at for one in trials) else ""
    return f"{'; '.join(parts)}{told}."


def draw(trials: Sequence[Trial]) -> Figure:
    """The loss of every cell over the iterations, a plot for each test and length.

    Dotted is what a guess has, dashed what counts as solved; published results stand in the margin.
    """
    groups = [(name, list(several)) for name, several in itertools.groupby(trials, key=lambda one: (one.test, one.steps))]
    figure = Figure(figsize=(1 + 4.2 * len(groups), 4.6), layout="constrained")
    plots = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, ((test, steps), several) in zip(plots, groups, strict=True):
        for one in several:
            axes.plot(
                *zip(*one.losses, strict=True) if one.losses else ([], []), label=one.cell.upper(), color=_COLOURS[one.cell]
            )
        axes.axhline(several[0].baseline, color="#555555", ls=":", lw=1.2)
        below = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "top", "fontsize": 8}
        axes.text(1, several[0].baseline * 0.9, "a guess", **below)
        axes.axhline(SOLVED, color="#555555", ls="--", lw=1.2)
        axes.text(1, SOLVED * 0.9, "solved", **below)
        axes.set(yscale="log", ylim=(SOLVED / 3, 3 * several[0].baseline), title=f"{_TITLES[test]}, T = {steps}")
        axes.set(xlabel="iteration\n" + "\n".join(["", *_PUBLISHED[test]]))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center right")
    plots[0].set_ylabel("loss (mean of 100 iterations)")
    return figure
