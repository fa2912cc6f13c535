"""The only importer of the distributed engine, Hugging Face accelerate, and of torch.distributed under it.

One process on a CPU, several GPUs, several machines: the training loop is the same lines, and this file is what differs.
Started by hand it is one process; started by `accelerate launch` or `torchrun` it is as many as they say. All of them run
the same program: a batch is shared out by rows, and gradients are averaged over all processes, each weighted by how many
units its rows hold, so that the result is one process's with the same batch, to rounding.
"""

from __future__ import annotations

import atexit
import dataclasses
import datetime
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import Tensor, nn

from unrolled.errors import ConfigError, RunError, UnrolledError
from unrolled.task import Carry, Processes, Rows, Step

Value = TypeVar("Value")
StepOf = Callable[[dict[str, Any], Carry], Step]
_TIMEOUT = datetime.timedelta(minutes=10)  # of a step, an evaluation, a checkpoint
_PREPARATION_TIMEOUT = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class Totals:
    """What a step came to over all processes together."""

    loss: float
    count: int
    report: dict[str, float]


class Engine(Processes):
    """Where and in what precision to compute, and what this process's part of a batch is.

    Args:
        device: `auto` (an accelerator if there is one), `cpu`, `cuda`, ...
        precision: `fp32`, or `bf16` for the forward pass in training; weights stay fp32.

    Raises:
        ConfigError: the device is not available.
    """

    def __init__(self, device: str = "auto", precision: str = "fp32") -> None:
        if device not in ("auto", "cpu"):
            _check_device(device)
        # Precision is `autocast` below rather than accelerate's own: that one patches the model's forward for good, and
        # evaluation is to run in fp32. A parameter that a step does not use (a CNN before it learns) gets no gradient; with
        # find_unused_parameters the buckets also stay as they are from the first step on, so that sums are taken in the
        # same order in a resumed run.
        wrapping = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
        connected_before = torch.distributed.is_available() and torch.distributed.is_initialized()
        with _connected():
            self._accelerator = Accelerator(
                cpu=device == "cpu" or not torch.accelerator.is_available(),  # else it starts no processes on a CPU
                mixed_precision="no",
                kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT), wrapping],
            )
            super().__init__(self._accelerator.process_index, self._accelerator.num_processes)
            self._patient_group: Any = None
            if self.count > 1:
                self._patient_group = torch.distributed.new_group(backend="gloo", timeout=_PREPARATION_TIMEOUT)
                atexit.register(_disconnect, weakref.ref(self), ours=not connected_before)
        self._bf16 = precision == "bf16"

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.index == 0

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that leaves a process without a row.

        Raises:
            ConfigError: there are more processes than rows.
        """
        if batch_size < self.count:
            raise ConfigError(
                f"batch_size {batch_size}: expected at least 1 for each of {self.count} processes, which share the batch. "
                f"Give {self.count} or more, or start fewer processes.",
                ["batch_size"],
            )

    def on_main(self, work: Callable[[], Value]) -> Value:
        """What `work` returns in the main process; the others wait for it, however long it takes, and get the same.

        Raises:
            UnrolledError: `work` raised it; then it is raised in every process.
        """
        if self._patient_group is None:
            return work()
        answer: list[Any] = [None, None]  # what went wrong, what was returned
        try:
            if self.is_main:
                answer = [RunError("the main process was stopped before its data were ready."), None]
                answer = [None, work()]
        except UnrolledError as error:
            answer = [error, None]
            raise
        finally:
            with _connected():
                torch.distributed.broadcast_object_list(answer, src=0, group=self._patient_group)
        if answer[0] is not None:
            raise answer[0].in_every_process()
        return answer[1]

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, by index."""
        with _connected():
            return gather_object([value]) if self.count > 1 else [value]

    def seed(self, seed: int) -> None:
        """Give every process but the main one random numbers of its own, for dropout."""
        if self.index:
            torch.manual_seed(int(np.random.SeedSequence([seed, self.index]).generate_state(1)[0]))

    def prepare(self, loss: Callable[[nn.Module, dict[str, Any], Carry], Step], model: nn.Module) -> StepOf:
        """Move the model to the device; return `loss` bound to it, with gradients shared.

        The optimizer stays torch's: accelerate's does the same but for fp16, and searches for a package in every step, which
        made small ones (2.6 ms) a fifth slower.
        """
        with _connected():
            module = self._accelerator.prepare(_Loss(loss, model))
        bound: _Loss = self._accelerator.unwrap_model(module)

        def step(batch: dict[str, Any], carry: Carry) -> Step:
            differentiable = module(batch, carry)
            return dataclasses.replace(bound.taken(), loss=differentiable)

        return step

    def shard(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's rows (dimension 0) of every tensor and of all `Rows` of a batch, on its device.

        Rows are dealt out as evenly as may be. With fewer rows than processes every process takes all of them, which has
        the same mean.
        """

        def part(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[self._rows(len(value))].to(self.device) if value.dim() else value.to(self.device)
            return value.rows(self._rows(len(value))).to(self.device) if isinstance(value, Rows) else value

        return {name: part(value) for name, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def backward(self, step: Step) -> Totals:
        """Compute the gradient of the mean over the units of all processes; return that mean, the units, and the reports."""
        totals, weight = self._totals(step)
        with _connected():
            self._accelerator.backward(step.loss if weight == 1 else step.loss * weight)
        return totals

    def clip(self, model: nn.Module, norm: float) -> float:
        """Scale the gradients down to `norm` if they exceed it; return the norm they had."""
        return float(self._accelerator.clip_grad_norm_(model.parameters(), norm))  # type: ignore[arg-type]

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The main process's clock, and whether any process is to stop: what all of them have to decide alike."""
        if self.count == 1:
            return seconds, stop
        seconds, stops = self._sum([seconds if self.is_main else 0.0, float(stop)])
        return seconds, stops > 0

    def random_state(self) -> dict[str, Tensor]:
        """The state of every random generator that dropout draws from, in this process."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _rows(self, total: int) -> slice:
        """This process's, of so many."""
        if total < self.count:
            return slice(total)
        return slice(total * self.index // self.count, total * (self.index + 1) // self.count)

    def _totals(self, step: Step) -> tuple[Totals, float]:
        """Of all processes, and by what this one's loss has to be multiplied: DDP gives the plain mean over processes."""
        loss = step.loss.item()
        if self.count == 1:
            return Totals(loss, step.count, step.report), 1.0
        means = [loss, *step.report.values()]
        count, *sums = self._sum([float(step.count), *(value * step.count for value in means)])
        loss, *others = (value / count for value in sums)
        return Totals(loss, int(count), dict(zip(step.report, others, strict=True))), self.count * step.count / count

    def _sum(self, values: list[float]) -> list[float]:
        """Of each value over all processes."""
        on_device = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _connected():
            return self._accelerator.reduce(on_device, reduction="sum").tolist()  # type: ignore[union-attr]


class _Loss(nn.Module):
    """A task's loss as a module: DistributedDataParallel shares the gradients of what runs in a `forward`.

    Inside it a task sees its own model, not a wrapper, and may call any of its methods.
    """

    def __init__(self, loss: Callable[[nn.Module, dict[str, Any], Carry], Step], model: nn.Module) -> None:
        super().__init__()
        self.loss, self.model = loss, model
        self._steps: list[Step] = []

    def forward(self, batch: dict[str, Any], carry: Carry) -> Tensor:
        self._steps.append(self.loss(self.model, batch, carry))
        return self._steps[-1].loss

    def taken(self) -> Step:
        """What the last `forward` came to."""
        return self._steps.pop()


def _disconnect(engine: weakref.ref[Engine], *, ours: bool) -> None:
    """At exit, join the threads that carry messages between processes, which takes letting go of all that uses them. A
    connection that is not `ours`, as it was there before, is left to whoever made it.

    A thread that gives back a tensor when Python is already closing down aborts a process whose work is done
    (https://github.com/pytorch/pytorch/issues/190489).
    """
    if (alive := engine()) is not None:
        alive._patient_group = None
        alive._accelerator.free_memory()
    gc.collect()
    if ours and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_device(device: str) -> None:
    """Refuse a device that is not here, and one that computes nothing, such as meta."""
    try:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        here = torch.empty(0, device=device).device.type in ("cpu", accelerator and accelerator.type)
        reason = "" if here else " (nothing trains on it)"
    except (RuntimeError, AssertionError) as error:
        reason = f" ({str(error).splitlines()[0]})"
    if reason:
        text = f"device {device}: not available on this machine{reason}. Use auto or cpu."
        raise ConfigError(text, ["device"]).in_every_process()


@contextmanager
def _connected() -> Iterator[None]:
    """Say in one line that another process is gone or does not answer."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            f"another process of this run has ended or does not answer ({str(error).splitlines()[0]}). "
            "What was saved last is kept; start all of them again, with --resume."
        ) from None
