"""Everything that training moves, saved as one file and restored from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from unrolled import checkpoint, files
from unrolled.engine import Engine
from unrolled.errors import RunError
from unrolled.task import Carry, Counters


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
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        for number, several in enumerate(of_each):
            tensors |= {f"process.{number}.{name}": tensor for name, tensor in several.items()}
        facts = {**dataclasses.asdict(counters), "processes": self.engine.count}
        checkpoint.save_tensors(self.folder / checkpoint.TRAINING, tensors, facts)
        if counters.best is None:  # nothing has been evaluated: the last weights are the best known
            self.save_model(counters)

    def save_model(self, counters: Counters) -> None:
        """Write the weights as the run's best.

        Raises:
            RunError: the disk is full or refuses; the old ones stay.
        """
        if self.engine.is_main:
            checkpoint.save_model(self.folder, self.model, counters.step)

    def restore(self) -> tuple[Counters, Carry]:
        """Go back to what `save` wrote.

        Raises:
            RunError: the checkpoint is missing, damaged, of another model or version, or of another number of processes.
        """
        path = self.folder / checkpoint.TRAINING
        tensors, facts = checkpoint.read_tensors(path)
        processes = facts.pop("processes", 1)
        if processes != self.engine.count:
            raise RunError(
                f"{self.folder}: expected {processes} process{'es' if processes > 1 else ''}, with which it was begun, got "
                f"{self.engine.count}. Start as many: each carries on a state of its own, and another number would not give "
                "the same result."
            ).in_every_process()
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "carry": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.removeprefix(f"process.{self.engine.index}.").partition(".")
            parts.setdefault(part, {})[rest] = tensor
        checkpoint.load_weights(path, self.model, parts["model"])
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
        if self.engine.is_main:
            files.remove_partial_files(self.folder)
            checkpoint.truncate_metrics(self.folder, counters.step)
        return counters, {name: tensor.to(self.engine.device) for name, tensor in parts["carry"].items()}
