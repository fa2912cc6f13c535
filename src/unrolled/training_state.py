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
    """The model, the optimizer and the random generators of a run that is being trained."""

    def __init__(self, folder: Path, engine: Engine, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.folder, self.engine, self.model, self.optimizer = folder, engine, model, optimizer

    def save(self, counters: Counters, carry: Carry) -> None:
        """Write all that is needed to go on.

        Raises:
            RunError: the disk is full or refuses; the last checkpoint stays.
        """
        if not self.engine.is_main:
            return
        model = self.engine.unwrap(self.model)
        tensors = {f"model.{name}": tensor for name, tensor in checkpoint.deduplicated_state(model).items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors |= {f"random.{name}": state for name, state in self.engine.random_state().items()}
        tensors |= {f"carry.{name}": state for name, state in carry.items()}
        checkpoint.save_tensors(self.folder / checkpoint.TRAINING, tensors, dataclasses.asdict(counters))
        if counters.best is None:  # nothing has been evaluated: the last weights are the best known
            self.save_model(counters)

    def save_model(self, counters: Counters) -> None:
        """Write the weights as the run's best.

        Raises:
            RunError: the disk is full or refuses; the old ones stay.
        """
        if self.engine.is_main:
            checkpoint.save_model(self.folder, self.engine.unwrap(self.model), counters.step)

    def restore(self) -> tuple[Counters, Carry]:
        """Go back to what `save` wrote.

        Raises:
            RunError: the checkpoint is missing, damaged, or of another model or version.
        """
        path = self.folder / checkpoint.TRAINING
        files.remove_partial_files(self.folder)
        tensors, facts = checkpoint.read_tensors(path)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "carry": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        checkpoint.load_weights(path, self.engine.unwrap(self.model), parts["model"])
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
        checkpoint.truncate_metrics(self.folder, counters.step)
        return counters, {name: tensor.to(self.engine.device) for name, tensor in parts["carry"].items()}
