"""The only importer of the distributed engine, Hugging Face accelerate.

One process on a CPU, several GPUs, several machines: the training loop is the same lines, and this file is what differs.
Started by hand it is one process; started by `accelerate launch` or `torchrun` it is as many as they say.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unrolled.errors import ConfigError


class Engine:
    """Where and in what precision to compute, and what this process's part of a batch is."""

    def __init__(self, device: str = "auto", precision: str = "fp32") -> None:
        if device not in ("auto", "cpu"):
            try:
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(f"--device {device}: not to be had here ({reason}). Use auto or cpu.") from None
        # Precision is `autocast` below rather than accelerate's own: that one patches the model's forward for good, and
        # evaluation is to run in fp32.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
        self._bf16 = precision == "bf16"

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self._accelerator.is_main_process

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move to the device and wrap for the processes there are; `unwrap` gives the plain model back."""
        return self._accelerator.prepare(model, optimizer)

    def unwrap(self, model: nn.Module) -> nn.Module:
        return self._accelerator.unwrap_model(model)

    def shard(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's rows (dimension 0) of every tensor of a batch, on its device."""
        count, index = self._accelerator.num_processes, self._accelerator.process_index

        def part(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return (value.chunk(count)[index] if count > 1 else value).to(self.device)

        return {name: part(value) for name, value in batch.items()}

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, norm: float) -> float:
        """Scale the gradients down to `norm` if they exceed it; return the norm they had."""
        return float(self._accelerator.clip_grad_norm_(model.parameters(), norm))  # type: ignore[arg-type]

    def mean(self, value: float) -> float:
        """The mean over processes."""
        if self._accelerator.num_processes == 1:
            return value
        return float(self._accelerator.reduce(torch.tensor(value, device=self.device), reduction="mean"))  # type: ignore[arg-type]

    def random_state(self) -> dict[str, Tensor]:
        """The state of every random generator that dropout draws from."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
