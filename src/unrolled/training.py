"""The only training loop. It is handed a task and names none.

A task says what a batch is, what its loss is and how good the model has become; the loop does the rest: step, clip, decay,
report, evaluate, save, stop. Batches are a function of the step's number, and everything else that moves is saved, so a
resumed run ends in the same weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from unrolled import checkpoint
from unrolled.config import TrainingConfig
from unrolled.engine import Engine
from unrolled.errors import DivergenceError, RunError
from unrolled.progress import Progress

Value = TypeVar("Value")
Carry = dict[str, Tensor]
"""What one step hands to the next besides the weights: a recurrent state, by name. Empty where nothing is carried."""


class Task(Protocol):
    """What the loop needs of a task, opened on its run folder."""

    name: str
    """Its name on the command line."""
    unit: str
    """What `Step.count` counts, for the rate on the screen: tokens, captions, frames."""
    config: TrainingConfig
    """Its settings, the loop's among them."""
    summary: str
    """One line about the data, for the screen."""

    def build(self) -> nn.Module:
        """The model, with fresh weights drawn from torch's generator.

        A parameter whose attribute `learning_rate_share` is set learns at that share of the learning rate.
        """
        ...

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of this step, a function of the number alone; tensors have the batch in dimension 0."""
        ...

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        """The differentiable loss of a batch, from what the step before handed on (`carry`; empty at the first step).

        What it returns as `Step.carry` must be cut from the graph: the next step's backward must not reach into this one.
        """
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on the validation part, by standard name; `loss` among them. Empty when there is no such part."""
        ...

    def show(self, model: nn.Module, seed: int) -> str:
        """A short sample of what the model makes now, for the screen."""
        ...


@dataclasses.dataclass(frozen=True)
class Step:
    """What a task's loss answers."""

    loss: Tensor
    """The mean over the batch, differentiable."""
    count: int
    """How many units the batch held."""
    carry: Carry = dataclasses.field(default_factory=dict)
    """What the next step gets, detached."""
    report: dict[str, float] = dataclasses.field(default_factory=dict)
    """More to show beside the loss."""


@dataclasses.dataclass
class Counters:
    """Where a run stands."""

    step: int = 0
    """Optimizer steps done."""
    seconds: float = 0.0
    """Time spent, over all resumptions; evaluations, samples and saves count, preparing the data does not."""
    best_loss: float = math.inf
    """The lowest validation loss so far."""
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


def train(
    task: Task,
    folder: Path,
    *,
    resume: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train until the steps or seconds are used up, the validation loss stops falling, or Ctrl-C.

    Args:
        task: what to train; its `config` says how.
        folder: the run folder; made if it is not there.
        resume: go on from the folder's last checkpoint; the result is bit-identical to that of a run never stopped, given
            the same threads and no `max_seconds`.
        engine: where to compute; made from the config's device and precision when left out.
        progress: where to show it; nothing is shown when left out.

    Raises:
        DivergenceError: the loss or the gradient is not finite; the last checkpoint stays as it is.
        RunError: the run cannot be written, or not resumed.
    """
    config, progress = task.config, progress or Progress(quiet=True)
    engine = engine or Engine(config.device, config.precision)
    torch.manual_seed(config.seed)
    model = task.build()
    optimizer = _optimizer(model, config)
    model, optimizer = engine.prepare(model, optimizer)
    run = _Run(folder, engine, model, optimizer)
    counters, carry = run.restore() if resume else (Counters(), {})
    metrics: dict[str, float] = {}
    started = time.perf_counter() - counters.seconds
    reason = _finished(counters, config)
    with _interruptible() as interrupted, progress.training(task, counters), run.writer(counters.step) as log:
        while not reason:
            batch = engine.shard(task.batch(counters.step))
            with engine.autocast():
                step = task.loss(model, batch, carry)
            loss = step.loss.item()
            engine.backward(step.loss)
            norm = engine.clip(model, config.clip_norm)
            if not math.isfinite(loss + norm):
                raise DivergenceError(_diverged(counters, folder, loss, norm))
            rate = learning_rate(config, counters)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.step()
            optimizer.zero_grad()
            carry = step.carry
            counters.step += 1
            counters.seconds = time.perf_counter() - started

            reason = _finished(counters, config) or ("interrupted" if interrupted() else "")
            report = {"loss": engine.mean(loss), "gradient_norm": norm, "learning_rate": rate, **step.report}
            progress.step(counters, config, step.count, report)
            if counters.step % 10 == 0 or reason:
                log(counters, "train", report)
            if counters.step % config.evaluate_every == 0 or reason == "finished":
                metrics = _evaluate(task, engine.unwrap(model), run, counters)
                log(counters, "validation", metrics)
                progress.evaluated(counters, metrics)
                if config.patience and counters.evaluations_without_gain >= config.patience:
                    reason = reason or "early stopping"
            if config.sample_every and counters.step % config.sample_every == 0 and not reason:
                progress.sample(counters.step, _aside(lambda: task.show(engine.unwrap(model), counters.step)))
                model.train()
            if counters.step % config.save_every == 0 or reason:
                run.save(counters, carry)
    return Outcome(folder, counters, reason, metrics)


def learning_rate(config: TrainingConfig, counters: Counters) -> float:
    """Linear warm-up, then half a cosine down to zero at the end of the steps or of the seconds, whichever is nearer.

    >>> config = TrainingConfig(max_steps=1000, warmup_steps=100, learning_rate=1.0)
    >>> [round(learning_rate(config, Counters(step=step)), 3) for step in (0, 49, 99, 500, 999)]
    [0.01, 0.497, 0.976, 0.5, 0.0]
    """
    done = counters.step / config.max_steps
    if config.max_seconds:
        done = max(done, counters.seconds / config.max_seconds)
    warm = min(1.0, (counters.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _Run:
    """The run folder, seen from the loop."""

    def __init__(self, folder: Path, engine: Engine, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.folder, self.engine, self.model, self.optimizer = folder, engine, model, optimizer

    def save(self, counters: Counters, carry: Carry) -> None:
        if not self.engine.is_main:
            return
        plain = self.engine.unwrap(self.model)
        tensors = {f"model.{name}": tensor for name, tensor in checkpoint.untied(plain).items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors |= {f"random.{name}": state for name, state in self.engine.random_state().items()}
        tensors |= {f"carry.{name}": state for name, state in carry.items()}
        checkpoint.save_tensors(self.folder / checkpoint.TRAINING, tensors, dataclasses.asdict(counters))
        if counters.best_step == 0:  # nothing has been evaluated: the last weights are the best known
            checkpoint.save_model(self.folder, plain)

    def restore(self) -> tuple[Counters, Carry]:
        path = self.folder / checkpoint.TRAINING
        checkpoint.remove_partial_files(self.folder)
        tensors, facts = checkpoint.read_tensors(path)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "carry": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        checkpoint.put_weights(path, self.engine.unwrap(self.model), parts["model"])
        try:
            counters = Counters(**facts)
            state = self.optimizer.state_dict()
            state["state"] = {}
            for name, tensor in parts["optimizer"].items():
                index, _, key = name.partition(".")
                state["state"].setdefault(int(index), {})[key] = tensor
            self.optimizer.load_state_dict(state)
            self.engine.set_random_state(parts["random"])
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            raise RunError(f"{path}: does not hold a training state this version can continue ({error}).") from None
        checkpoint.cut_metrics(self.folder, counters.step)
        return counters, {name: tensor.to(self.engine.device) for name, tensor in parts["carry"].items()}

    @contextmanager
    def writer(self, step: int) -> Iterator[Callable[[Counters, str, dict[str, float]], None]]:
        """Reports go to metrics.jsonl and to TensorBoard's event files."""
        if not self.engine.is_main:
            yield lambda counters, part, values: None
            return
        board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1 if step else None)

        def log(counters: Counters, part: str, values: dict[str, float]) -> None:
            line = {"step": counters.step, "seconds": round(counters.seconds, 3), "part": part, **values}
            checkpoint.append_metrics(self.folder, line)
            for name, value in values.items():
                board.add_scalar(f"{part}/{name}", value, counters.step)

        # TensorBoard writes in a thread of its own; the error it dies of is raised here again, at the next report.
        others, threading.excepthook = threading.excepthook, _without_oserrors(threading.excepthook)
        try:
            try:
                yield log
            finally:
                board.close()
        except OSError as error:
            raise RunError(
                f"{self.folder}: could not write a report, {checkpoint.reason(error)}. "
                "The last checkpoint is kept; make room and go on with --resume."
            ) from None
        finally:
            threading.excepthook = others


def _without_oserrors(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda details: None if issubclass(details.exc_type, OSError) else hook(details)


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW with decay for matrices only; a parameter with a `learning_rate_share` learns at that share of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for p in model.parameters():
        decay = config.weight_decay if p.dim() >= 2 else 0.0
        groups.setdefault((getattr(p, "learning_rate_share", 1.0), decay), []).append(p)
    several = [{"params": some, "share": share, "weight_decay": decay} for (share, decay), some in groups.items()]
    return torch.optim.AdamW(several, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


def _finished(counters: Counters, config: TrainingConfig) -> str:
    out_of_time = config.max_seconds is not None and counters.seconds >= config.max_seconds
    return "finished" if counters.step >= config.max_steps or out_of_time else ""


def _evaluate(task: Task, model: nn.Module, run: _Run, counters: Counters) -> dict[str, float]:
    """Measure, remember whether it is the best so far, and keep those weights."""
    metrics = _aside(lambda: task.evaluate(model))
    if not metrics:
        return {}
    if metrics["loss"] < counters.best_loss:
        counters.best_loss, counters.best_step, counters.evaluations_without_gain = metrics["loss"], counters.step, 0
        if run.engine.is_main:
            checkpoint.save_model(run.folder, model)
    else:
        counters.evaluations_without_gain += 1
    model.train()
    return metrics


def _aside(work: Callable[[], Value]) -> Value:
    """Run something that may draw random numbers without moving training's own."""
    with torch.random.fork_rng():
        return work()


def _diverged(counters: Counters, folder: Path, loss: float, norm: float) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    kept = folder / checkpoint.TRAINING
    saved = f"The last good checkpoint is kept in {folder}." if kept.exists() else "Nothing had been saved yet."
    return (
        f"step {counters.step + 1}: {what}; the weights were not changed by it. {saved} "
        "Train again with a lower --learning-rate or --clip-norm, or --precision fp32."
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) lets the step in hand finish, so that it can be saved; a second Ctrl-C does not wait."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
