"""Parity as the training loop sees it, and as a trained run is used."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import unrolled
from unrolled import checkpoint
from unrolled.errors import DataError, ExportError
from unrolled.task import Metric, Preview, Step

from .config import Config


class Model(nn.Module):
    """Bits (B, T) in, logits of the parity after each (B, T) out."""

    def __init__(self, config):
        super().__init__()
        self.layer = unrolled.GRU(1, config.hidden_size, batch_first=True)
        self.output = nn.Linear(config.hidden_size, 1)

    def forward(self, bits):
        return self.output(self.layer(bits.unsqueeze(-1))[0]).squeeze(-1)


def sequences(path, length):
    """The bits of a file, cut into sequences (N, length)."""
    bits = [int(character) for character in Path(path).read_text() if character in "01"]
    if len(bits) < length:
        raise DataError(f"{path}: expected at least {length} characters 0 and 1, got {len(bits)}.")
    return torch.tensor(bits[: len(bits) // length * length]).view(-1, length).float()


def measure(model, bits):
    logits, parity = model(bits), bits.cumsum(1) % 2
    loss = binary_cross_entropy_with_logits(logits, parity)
    return loss, {"loss": float(loss.detach()), "accuracy": float(((logits > 0) == (parity > 0)).float().mean())}


class Task:
    name, unit, loss_name, selection = "parity", "bits", "nats per bit", Metric(unit="nats per bit")

    def __init__(self, config, folder):
        self.config = config
        bits = sequences(folder / "bits.txt", config.length)
        self.training, self.validation = bits[len(bits) // 10 :], bits[: len(bits) // 10]
        self.summary = f"{self.training.numel():,} bits to learn from, {self.validation.numel():,} to measure on"

    @staticmethod
    def prepare(config, folder, say):
        if not config.data:
            raise DataError("expected files of the characters 0 and 1, got none.")
        for path in config.data:
            sequences(path, config.length)  # refuses a file of too few by its own name, before anything starts
        (folder / "bits.txt").write_text("".join(Path(path).read_text() for path in config.data))

    def build(self):
        return Model(self.config)

    def batch(self, step):  # a function of the step's number alone: this makes resuming exact
        chosen = np.random.default_rng([self.config.seed, step]).integers(len(self.training), size=self.config.batch_size)
        return {"bits": self.training[torch.from_numpy(chosen)]}

    def loss(self, model, batch, carry):
        loss, metrics = measure(model, batch["bits"])
        return Step(loss, count=batch["bits"].numel(), report={"accuracy": metrics["accuracy"]})

    def evaluate(self, model, processes):
        with torch.no_grad():
            return measure(model, self.validation.to(model.output.weight.device))[1]

    def show(self, model, seed):
        return f"accuracy {measure(model, self.validation.to(model.output.weight.device))[1]['accuracy']:.2f}"


class Run:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = checkpoint.open_config(self.folder, Task.name, Config)
        self.model = checkpoint.load_model(self.folder, lambda: Model(self.config))

    @torch.no_grad()
    def parity(self, bits):
        if not bits or set(bits) - {"0", "1"}:
            raise DataError(f"expected bits such as 0110, got {bits!r}.")
        return "".join("01"[int(logit > 0)] for logit in self.model(torch.tensor([[float(bit) for bit in bits]]))[0])

    @torch.no_grad()
    def evaluate(self, *paths, report=None):
        if not paths:
            raise DataError("expected files of the characters 0 and 1, got none.")
        return measure(self.model, torch.cat([sequences(path, self.config.length) for path in paths]))[1]

    def export(self, path):
        raise ExportError(f"{self.folder}: parity is not written in other formats.")

    def preview(self):
        bits = "011010011"
        return Preview("parity", f"{bits}\n{self.parity(bits)}", (f"unrolled parity {self.folder} 1101",))
