"""The only training loop. It is handed a task and names none.

A task says what a batch is, what its loss is and how good the model has become; the loop does the rest: step, clip, decay,
report, evaluate, save, stop. Batches are a function of the step's number, and everything else that moves is saved, so a
resumed run ends in the same weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from unrolled import checkpoint, optimizer
from unrolled.config import TrainingConfig
from unrolled.engine import Engine
from unrolled.errors import DivergenceError
from unrolled.optimizer import learning_rate
from unrolled.progress import Progress
from unrolled.task import Counters, Outcome, Task
from unrolled.training_log import open_log
from unrolled.training_state import TrainingState


def train(
    task: Task,
    folder: Path,
    *,
    resume: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train until the steps or seconds are used up, the validation metric stops getting better, or Ctrl-C.

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
    model, adamw = engine.prepare(model, optimizer.build(model, config))
    state = TrainingState(folder, engine, model, adamw)
    counters, carry = state.restore() if resume else (Counters(), {})
    metrics: dict[str, float] = {}
    started = time.perf_counter() - counters.seconds
    reason = _finished(counters, config)
    with _interrupts_deferred() as interrupted, progress.training(task, counters), open_log(folder, counters.step) as log:
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
            optimizer.set_learning_rate(adamw, rate)
            adamw.step()
            adamw.zero_grad()
            carry = step.carry
            counters.step += 1
            counters.seconds = time.perf_counter() - started

            reason = _finished(counters, config) or ("interrupted" if interrupted() else "")
            report = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, **step.report}
            progress.step(counters, config, step.count, report)
            if counters.step % 10 == 0 or reason:
                log(counters, "train", report)
            if counters.step % config.evaluate_every == 0 or reason == "finished":
                metrics = _evaluate(task, engine.unwrap(model), state, counters)
                log(counters, "validation", metrics)
                progress.evaluated(counters, metrics)
                if config.patience and counters.evaluations_without_gain >= config.patience:
                    reason = reason or "early stopping"
            if config.sample_every and counters.step % config.sample_every == 0 and not reason:
                with torch.random.fork_rng():  # training's random numbers stay where they are
                    progress.sample(counters.step, task.show(engine.unwrap(model), counters.step))
                model.train()
            if counters.step % config.save_every == 0 or reason:
                state.save(counters, carry)
    return Outcome(folder, counters, reason, metrics)


def _finished(counters: Counters, config: TrainingConfig) -> str:
    out_of_time = config.max_seconds is not None and counters.seconds >= config.max_seconds
    return "finished" if counters.step >= config.max_steps or out_of_time else ""


def _evaluate(task: Task, model: nn.Module, state: TrainingState, counters: Counters) -> dict[str, float]:
    """Measure, remember whether it is the best so far, and keep those weights."""
    with torch.random.fork_rng():
        metrics = task.evaluate(model)
    model.train()
    if not metrics:
        return {}
    value = metrics[task.selection.name]
    if task.selection.improves(value, counters.best):
        counters.best, counters.best_step, counters.evaluations_without_gain = value, counters.step, 0
        state.save_model(counters)
    else:
        counters.evaluations_without_gain += 1
    return metrics


def _diverged(counters: Counters, folder: Path, loss: float, norm: float) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    kept = folder / checkpoint.TRAINING
    saved = f"The last good checkpoint is kept in {folder}." if kept.exists() else "Nothing had been saved yet."
    return (
        f"step {counters.step + 1}: {what}; the weights were not changed by it. {saved} "
        "Train again with a lower --learning-rate or --clip-norm, or --precision fp32."
    )


@contextmanager
def _interrupts_deferred() -> Iterator[Callable[[], bool]]:
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
