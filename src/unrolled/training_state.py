"""Everything that training moves, saved as one file and restored from it."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from unrolled import checkpoint
from unrolled.engine import Engine
from unrolled.errors import RunError
from unrolled.files import validated
from unrolled.task import Carry, Counters, Task

_LARGEST = 2**53


class Facts(BaseModel):
    """What the file says beside its tensors: the `Counters`, and how many processes trained."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    step: int = Field(ge=0, le=_LARGEST)
    seconds: float = Field(ge=0)
    best: float | None
    best_step: int = Field(ge=0, le=_LARGEST)
    evaluations_without_gain: int = Field(ge=0, le=_LARGEST)
    processes: int = Field(ge=1, le=_LARGEST)


class TrainingState:
    """The model, the optimizer and the random generators of a run that is being trained, in all its processes."""

    def __init__(self, folder: Path, engine: Engine, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.folder, self.engine, self.model, self.optimizer = folder, engine, model, optimizer

    def save(self, counters: Counters, carry: Carry) -> None:
        """Write all that is needed to go on, in all processes; every one of them has to call it.

        Raises:
            RunError: the disk is full or refuses; the last checkpoint stays.
        """
        own = {f"random.{name}": state for name, state in self.engine.random_state().items()}
        own |= {f"carry.{name}": state.cpu() for name, state in carry.items()}
        of_each = self.engine.gather(own)
        if not self.engine.is_main:
            return
        tensors = {f"model.{name}": tensor for name, tensor in checkpoint.deduplicated_state(self.model).items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self._moments().items()}
        for number, several in enumerate(of_each):
            tensors |= {f"{_process(number)}{name}": tensor for name, tensor in several.items()}
        facts = {**vars(counters), "processes": self.engine.count}
        checkpoint.save_tensors(self.folder / checkpoint.TRAINING, tensors, facts)
        if counters.best is None and counters.step:  # nothing has been evaluated: the last weights are the best known
            self.save_model(counters)

    def save_model(self, counters: Counters) -> None:
        """Write the weights as the run's best.

        Raises:
            RunError: the disk is full or refuses; the old ones stay.
        """
        if self.engine.is_main:
            checkpoint.save_model(self.folder, self.model, counters.step)

    def restore(self, task: Task) -> tuple[Counters, Carry]:
        """Go back to what `save` wrote, all of which is checked first: other shapes would be read and written past their ends.

        Raises:
            RunError: the checkpoint is missing, damaged, of another model or version, or of another number of processes.
        """
        path = self.folder / checkpoint.TRAINING
        tensors, found = checkpoint.read_tensors(path)
        facts = validated(path, Facts, found)
        if facts.processes != self.engine.count:
            raise RunError(
                f"{self.folder}: expected {facts.processes} process{'es' if facts.processes > 1 else ''}, with which it was "
                f"begun, got {self.engine.count}. Start as many: each carries on a state of its own, and another number would "
                "not give the same result."
            ).in_every_process()
        counters = Counters(**facts.model_dump(exclude={"processes"}))
        random, carry = self.engine.random_state(), self._carry(task, counters.step)
        expected = {f"model.{name}": tensor for name, tensor in checkpoint.deduplicated_state(self.model).items()}
        expected |= {f"optimizer.{name}": tensor for name, tensor in self._moments().items()}
        own = _process(self.engine.index)
        expected |= {f"{own}random.{name}": state for name, state in random.items()}
        expected |= {f"{own}carry.{name}": state for name, state in carry.items()}
        others = [
            f"{_process(number)}{what}."
            for number in range(self.engine.count)
            for what in ("random", "carry")
            if number != self.engine.index
        ]
        unused = (*others, *([] if "cuda" in random else [f"{own}random.cuda"]))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}
        checkpoint.check_tensors(path, tensors, expected)
        with torch.no_grad():
            for name, tensor in checkpoint.deduplicated_state(self.model).items():
                tensor.copy_(tensors[f"model.{name}"])
            for name, tensor in self._moments().items():
                tensor.copy_(tensors[f"optimizer.{name}"])
        try:
            self.engine.set_random_state({name: tensors[f"{own}random.{name}"] for name in random})
        except RuntimeError as error:
            raise RunError(f"{path}: damaged (its random state: {error}). Restore the file or train again.") from None
        return counters, {name: tensors[f"{own}carry.{name}"].to(self.engine.device) for name in carry}

    def _moments(self) -> dict[str, Tensor]:
        """The optimizer's tensors by the number of their parameter and their name."""
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}

    def _carry(self, task: Task, step: int) -> Carry:
        """Tensors as the step before `step` carries them on, in shape and type."""
        if step == 0:
            return {}
        with torch.random.fork_rng(), torch.no_grad(), self.engine.autocast():
            return task.loss(self.model, self.engine.shard(task.batch(step - 1)), {}).carry


def _process(number: int) -> str:
    """What the names of a process's own tensors begin with: of the first, which may be the only one, with nothing."""
    return f"process.{number}." if number else ""
