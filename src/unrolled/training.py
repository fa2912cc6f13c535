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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from unrolled import checkpoint, memory, optimizer
from unrolled.config import TrainingConfig
from unrolled.data.prefetch import prefetch
from unrolled.engine import Engine
from unrolled.errors import ConfigError, DivergenceError
from unrolled.inspection.watching import Watch
from unrolled.optimizer import learning_rate
from unrolled.progress import Progress
from unrolled.task import Counters, Outcome, Task
from unrolled.training_log import EVERY, open_log
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
    if resume:
        checkpoint.require_fit(folder / checkpoint.TRAINING, task.build, prefix="model.")
    _require_memory(task, engine)
    torch.manual_seed(config.seed)
    model = task.build()
    step_of, adamw = engine.prepare(task.loss, model), optimizer.build(model, config)
    optimizer.begin(adamw)
    engine.seed(config.seed)
    state = TrainingState(folder, engine, model, adamw)
    if resume:
        counters, carry = state.restore(task)
    else:
        counters, carry = Counters(), {}
        folder.mkdir(parents=True, exist_ok=True)
        state.save(counters, carry)  # a run without a checkpoint is one that lost it
    metrics: dict[str, float] = {}
    watch = Watch(model, config, engine.device)
    started = time.perf_counter() - counters.seconds
    reason = _finished(counters, config)
    if reason:
        return Outcome(folder, counters, reason, checkpoint.last_evaluation(folder))
    log_of = open_log(folder, counters.step) if engine.is_main else nullcontext(_no_log)
    steps = range(counters.step, config.max_steps)
    batches_of = prefetch(lambda step: engine.shard(task.batch(step)), steps, config.workers)
    with _interrupts_deferred() as interrupted, progress.training(task, counters), log_of as log, batches_of as batches:
        while not reason:
            batch = next(batches)
            with engine.autocast(), watch.step(counters.step + 1):
                step = step_of(batch, carry)
            total = engine.backward(step)
            norm = engine.clip(model, config.clip_norm)
            if not math.isfinite(total.loss + norm):
                raise DivergenceError(_diverged(counters, folder, total.loss, norm)).in_every_process()
            rate = learning_rate(config, counters)
            optimizer.set_learning_rate(adamw, rate)
            adamw.step()
            adamw.zero_grad()
            carry = step.carry
            counters.step += 1
            counters.seconds, stop = engine.agree(time.perf_counter() - started, interrupted())

            reason = _finished(counters, config) or ("interrupted" if stop else "")
            report = {"loss": total.loss, "gradient_norm": norm, "learning_rate": rate, **total.report, **watch.report()}
            progress.step(counters, config, total.count, report)
            if warning := watch.warning():
                progress.say(f"step {counters.step:,}  {warning}")
            if counters.step % EVERY == 0 or reason == "finished":
                log(counters, "train", report)
            if counters.step % config.evaluate_every == 0 or reason == "finished":
                metrics = _evaluate(task, model, engine, state, counters)
                log(counters, "validation", metrics)
                progress.evaluated(counters, metrics)
                reason = _finished(counters, config) or reason
            if config.sample_every and counters.step % config.sample_every == 0 and not reason and engine.is_main:
                with torch.random.fork_rng():  # training's random numbers stay where they are
                    progress.sample(counters.step, task.show(model, counters.step))
                model.train()
            if counters.step % config.save_every == 0 or reason:
                state.save(counters, carry)
    return Outcome(folder, counters, reason, metrics)


def _finished(counters: Counters, config: TrainingConfig) -> str:
    """Why there is nothing more to train, if so. A function of what is saved, so that a resumed run ends where it ended."""
    out_of_time = config.max_seconds is not None and counters.seconds >= config.max_seconds
    if counters.step >= config.max_steps or out_of_time:
        return "finished"
    return "early stopping" if config.patience and counters.evaluations_without_gain >= config.patience else ""


def _require_memory(task: Task, engine: Engine) -> None:
    """Refuse a model that cannot be held here, before it is made.

    Raises:
        ConfigError: its weights, their gradients and AdamW's two moments are more than there is.
    """
    tensors = checkpoint.blueprint(task.build).values()
    needed, there = 4 * sum(tensor.nbytes for tensor in tensors), memory.capacity(engine.device)
    if there is not None and needed > there:
        raise ConfigError(
            f"a model of {sum(tensor.numel() for tensor in tensors):,} weights needs {needed / 2**30:,.0f} GiB to be trained "
            f"(weights, gradients and AdamW's two moments), and this machine has {there / 2**30:,.0f} GiB. Make it smaller."
        ).in_every_process()


def _no_log(counters: Counters, part: str, values: dict[str, float]) -> None:
    """The main process writes the reports."""


def _evaluate(task: Task, model: nn.Module, engine: Engine, state: TrainingState, counters: Counters) -> dict[str, float]:
    """Measure, remember whether it is the best so far, and keep those weights."""
    with torch.random.fork_rng():
        metrics = task.evaluate(model, engine)
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
    return (
        f"step {counters.step + 1}: {what}; the weights were not changed by it. The last good checkpoint is kept in {folder}. "
        "Train again with a lower learning_rate (--learning-rate) or clip_norm (--clip-norm), or precision (--precision) fp32."
    )


@contextmanager
def _interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM) lets the step in hand finish, so that it can be saved; a second Ctrl-C does not wait.

    What comes within a second is one Ctrl-C: a launcher passes on to its processes what they have had from the terminal.
    """
    received: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(time.monotonic())
        if received[-1] - received[0] > 1:
            raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        previous = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
