"""What training asks of a task, what the commands ask of a trained run, and what is passed between them.

A task is a package with a class `Task`, opened on a run folder to be trained, and a class `Run`, opened on one that has been.
Both are protocols: nothing is inherited. `require` says what a class or an object lacks.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from unrolled.config import TrainingConfig
from unrolled.errors import RunError

Value = TypeVar("Value")
Carry = dict[str, Tensor]
"""What one step hands to the next besides the weights: a recurrent state, by name. Empty where nothing is carried."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """The figure of an evaluation by which the best weights are kept and training stops early."""

    name: str = "loss"
    """Its key in what `Task.evaluate` returns."""
    unit: str = "loss"
    """What it is, for the axis of a plot: `nats per token`, `CIDEr`."""
    lower_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far; the first that is finite always is, what is not finite never.

        >>> Metric("cider", "CIDEr", lower_is_better=False).improves(0.6, best=0.5)
        True
        """
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        return value < best if self.lower_is_better else value > best


@dataclasses.dataclass(frozen=True)
class Step:
    """What a task's loss returns."""

    loss: Tensor
    """The mean over the batch's `count` units, differentiable."""
    count: int
    """How many units the batch held. Where several processes share a batch, each one's gradient counts by it."""
    carry: Carry = dataclasses.field(default_factory=dict)
    """What the next step gets, detached."""
    report: dict[str, float] = dataclasses.field(default_factory=dict)
    """More to show beside the loss, means over the same units."""


class Processes:
    """The processes that train together, as one of them sees them; one alone unless the loop says otherwise.

    To share work out, each takes `items[processes.index :: processes.count]`, and `gather` brings the results together.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, by index. All of them have to call it."""
        return [value]


class Rows(ABC):
    """A tensor of a batch that is not made yet; of several processes each makes only its rows."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def rows(self, part: slice) -> Tensor:
        """Some of them, in dimension 0: a function of which they are, however they are asked for."""


class Task(Protocol):
    """What the training loop needs of a task, opened on its run folder.

    One that can take batches from other data than its run's has `on_other_data(config, folder, paths)`, which opens it so, for
    `unrolled inspect gradients RUN DATA` and `unrolled inspect truncation RUN DATA`.
    """

    name: str
    """Its name on the command line."""
    unit: str
    """What `Step.count` counts, for the rate on the screen: tokens, captions, frames."""
    loss_name: str
    """What the training loss is, for the axis of a plot: `nats per token`."""
    selection: Metric
    """By which figure of `evaluate` the best weights are kept."""
    config: TrainingConfig
    """Its settings, the loop's among them."""
    summary: str
    """One line about the data, for the screen."""

    @staticmethod
    def prepare(config: Any, folder: Path, say: Callable[[str], None]) -> None:
        """Read the data and leave in the run folder what training needs of it; `say` shows a line.

        Raises:
            DataError: the data cannot be read or is too little.
        """
        ...

    def build(self) -> nn.Module:
        """The model, with fresh weights drawn from torch's generator.

        A parameter whose attribute `learning_rate_share` is set learns at that share of the learning rate.
        """
        ...

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of this step, a function of the number alone; tensors have the batch in dimension 0.

        Batches are made ahead, by several threads at once. What takes long to make may be `Rows`: it is then made in the
        same thread, by each process its share.
        """
        ...

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        """The differentiable loss of a batch, from what the step before handed on (`carry`; empty at the first step).

        What it returns as `Step.carry` must be detached: the next step's backward must not reach into this one.
        """
        ...

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        """Metrics on the validation part, by standard name; `selection.name` among them. Empty when there is no such part.

        Every process calls it, and has to get the same figures; `processes` lets them share the work.
        """
        ...

    def show(self, model: nn.Module, seed: int) -> str:
        """A short sample of what the model makes now, for the screen."""
        ...


class Run(Protocol):
    """What the commands need of a trained run, opened as `Run(folder)`. A task's own verbs are methods beside these.

    One whose figures have pictures has `draw_figures(figures, folder)` too, which writes those of `evaluate` into a folder; one
    that learned of its data what its settings do not say, a static `describe(folder)`, whose facts `unrolled info` shows; one
    that reads text, `activations(*paths)`, which returns the `Activations` that `unrolled inspect units` looks at; one whose
    steps can be seen, `gallery(folder, *inputs)`, which draws them for `unrolled inspect steps` and returns the paths.
    """

    folder: Path
    """The run folder."""
    config: TrainingConfig
    """The settings that it was trained with. What evaluates and decodes reads them here: `unrolled.load(run, beam=5)` puts
    other values in place of those that the config names in `evaluation_settings`."""

    def evaluate(self, *paths: Any, report: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
        """Metrics on data it has not seen, by standard name.

        Args:
            paths: the data, in any form that training takes; names, or lists of them.
            report: called with what is being done, how much of it is done, and the total.

        Raises:
            DataError: the data cannot be read or is too little.
        """
        ...

    def export(self, path: Path) -> Path | list[Path]:
        """Write the model for other runtimes; return where it is. A model of several files puts them beside `path`, each under
        a name made from that.

        Raises:
            ExportError: it cannot be written in that format.
        """
        ...

    def preview(self) -> Preview:
        """A look at what the model does, for the end of training."""
        ...


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a trained run has to show."""

    title: str
    """What `text` is."""
    text: str
    """Something that the model made."""
    commands: tuple[str, ...] = ()
    """Commands to try next, each ready to be typed."""
    measured_on: str = ""
    """How much was held out, which says how far the last figures are to be trusted; nothing where the task does not say."""
    answer: Callable[[str], str] | None = None
    """What the model makes of a line: after a demo, people at a terminal can type lines of their own."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """An example of a task that needs no file and no network: what `demo(folder)` of its `demo.py` returns."""

    data: tuple[str, ...]
    """What it trains on: files that `demo` made in its folder, or that every machine has."""
    settings: dict[str, Any]
    """What it trains with, by the names of the config's fields; without `max_seconds` it comes out the same every time."""
    unseen: tuple[str, ...] = ()
    """Data that it does not train on, to evaluate with afterwards."""
    preview: Callable[[Any], Preview] | None = None
    """Of the trained `Run`: what to show at the end; its own preview when left out."""


LONGEST_READ = 40_000
"""Tokens of a text whose `Activations` are taken, at most: with a thousand units they are 160 MB."""


@dataclasses.dataclass(frozen=True)
class Activations:
    """What the hidden units of a run are while it reads a text: what a `Run.activations` returns."""

    pieces: list[str]
    """The text, N tokens; put together they are the text."""
    units: dict[str, Tensor]
    """(N, H) of each layer and direction, after each token, by torch.nn's suffix: `l0`, `l0_reverse`."""
    unknown: int = 0
    """How many of the tokens the run had never seen."""
    labels: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    """What else is known of each token, by name: 1 and 0 for what is there or not."""

    def names(self) -> list[str]:
        """Of every unit, layer by layer: `l0.0`, `l0.1` and so on."""
        return [f"{layer}.{number}" for layer, values in self.units.items() for number in range(values.shape[1])]

    def values(self) -> Tensor:
        """Of all layers side by side, as `names`: (N, U)."""
        return torch.cat([*self.units.values()], dim=1)


@dataclasses.dataclass
class Counters:
    """Where a run stands."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Time spent, over all resumptions; evaluations, samples and saves count, preparing the data does not."""
    best: float | None = None
    """The best value so far of the task's `selection`; None when nothing has been measured."""
    best_step: int = 0
    """The step it was measured at; 0 when nothing has been measured."""
    evaluations_without_gain: int = 0
    """In a row, up to now; `patience` limits them."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    counters: Counters
    reason: str
    """`finished`, `early stopping` or `interrupted`."""
    metrics: dict[str, float]
    """The last evaluation's."""


def require(found: object, protocol: type, where: str) -> None:
    """Refuse a class or an object that lacks members of `Task` or `Run`.

    A class may set its attributes when it is opened, so of a class only the methods are asked for.

    Raises:
        RunError: naming everything that is missing.

    >>> class Half:
    ...     def build(self): ...
    ...     def loss(self, model, batch, carry): ...
    >>> require(Half, Task, "my_package")
    Traceback (most recent call last):
    ...
    unrolled.errors.RunError: my_package: its Task lacks prepare, batch, evaluate, show; see unrolled.task.Task.
    """
    methods = [name for name, value in vars(protocol).items() if not name.startswith("_") and not isinstance(value, type)]
    members = methods if isinstance(found, type) else [*protocol.__annotations__, *methods]
    if missing := [name for name in members if not hasattr(found, name)]:
        name = protocol.__name__
        raise RunError(f"{where}: its {name} lacks {', '.join(missing)}; see {protocol.__module__}.{name}.")
