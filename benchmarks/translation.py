"""Translation, side by side.

    python -m benchmarks.translation table DATA... --validation FILE... [--recipe FILE] [--seconds 600] [--test FILE...]
    python -m benchmarks.translation training DATA...
    python -m benchmarks.translation speed RUN FILE

`table` trains each kind of attention, and each cell, for the same seconds, by the recipe but with one member. As a table in
Markdown it prints BLEU on the --test pairs, or else on those of validation (the run's beam), target tokens per second in
training and sentences per second in translating. `training` times the steps of one model on torch.nn's layers and on ours, in
turn, in one process. `speed` translates a file line by line and in batches, at beam 1 and 5.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled import optimizer, restore, tasks
from unrolled.checkpoint import read_metrics
from unrolled.data.pairs import Pairs
from unrolled.tasks.translation import data
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.task import Run, Task

MODELS = [
    *({"attention": attention, "heads": 1} for attention in ("none", "additive", "dot", "general")),
    {"attention": "between"},
    *({"cell": cell} for cell in ("rnn", "gru")),  # lstm is among those above
]
BASE: dict[str, Any] = {"hidden_size": 512, "dropout": 0.4, "weight_decay": 0.05, "warmup_steps": 200, "precision": "bf16"}


def table(paths: list[str], validation: list[str], test: list[str], recipe: Path, seconds: float) -> None:
    print(f"{seconds:.0f} seconds of training each, {torch.get_num_threads()} threads\n")
    print("| cell | attention | BLEU | target tokens/s | sentences/s, beam 5 |\n|---|---|---|---|---|")
    lines = [source for source, _ in Pairs(test)]
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            tasks.train(
                "translation",
                paths,
                run=run,
                validation=validation,
                recipe=recipe,
                members=1,
                max_seconds=seconds,
                max_steps=10**6,
                evaluate_every=10**6,
                save_every=10**6,
                sample_every=0,
                **model,
            )
            trained: Run = tasks.load(run)
            steps = [line for line in read_metrics(run) if line["part"] == "train"]
            task = Task(trained.config, run)
            tokens = steps[-1]["step"] * task.pairs.target.lengths.sum() / task.batches.per_epoch / steps[-1]["seconds"]
            began = time.perf_counter()
            list(trained.translate(lines))
            rate = len(lines) / (time.perf_counter() - began)
            bleu = trained.evaluate(*test)["bleu"]
        print(f"| {trained.config.cell} | {trained.config.attention} | {bleu:.1f} | {tokens:,.0f} | {rate:.0f} |", flush=True)


class TorchLayer(nn.Module):
    """torch.nn's layer where ours takes `lengths`, by packing."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, state: Any = None, *, lengths: torch.Tensor | None = None) -> Any:
        if lengths is None:
            return self.layer(x, state)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, state = self.layer(packed, state)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], state


def training(paths: list[str], steps: int) -> None:
    """Both models learn from the same batches, step by step in turn."""
    config = Config(data=tuple(paths), **BASE)
    with tempfile.TemporaryDirectory() as folder:
        data.prepare(config, Path(folder), lambda text: None)
        task = Task(config, Path(folder))
        models = {}
        for name in ("torch.nn", "ours"):
            torch.manual_seed(0)
            model = task.build()
            if name == "torch.nn":
                restore(model)
                for place, layer in enumerate(model.encoder_layers):
                    model.encoder_layers[place] = TorchLayer(layer)
            models[name] = model, optimizer.build(model, config), []
        for number in range(steps):
            batch, losses = task.batch(number), []
            tokens = int((batch["tokens"][:, 1:] != 0).sum())
            for name, (model, adamw, rates) in models.items():
                began = time.perf_counter()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    step = task.loss(model, batch, {})
                step.loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                adamw.step()
                adamw.zero_grad()
                rates.append(tokens / (time.perf_counter() - began))
                losses.append((name, float(step.loss.detach())))
        medians = {name: statistics.median(rates[steps // 10 :]) for name, (_, _, rates) in models.items()}
    print(f"{config.cell}, {config.hidden_size}, {config.attention}, bf16, {torch.get_num_threads()} threads, {steps} steps")
    print(", ".join(f"{name} {rate:,.0f} target tokens/s" for name, rate in medians.items()), end="; ")
    print(f"torch.nn / ours {medians['ours'] / medians['torch.nn']:.2f} of the time; last losses {dict(losses)}")


def speed(folder: str, file: str) -> None:
    run: Run = tasks.load(folder)
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    print(f"{run.config.cell}, {run.config.hidden_size}, {run.config.attention}, {torch.get_num_threads()} threads")
    for beam in (1, 5):
        began = time.perf_counter()
        list(run.translate(lines, beam=beam))
        together = len(lines) / (time.perf_counter() - began)
        few, began = lines[:100], time.perf_counter()
        for line in few:
            next(run.translate(line, beam=beam))
        alone = len(few) / (time.perf_counter() - began)
        print(f"beam {beam}: {together:,.0f} sentences/s in batches, {alone:,.0f} one line at a time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("table")
    one.add_argument("data", nargs="+")
    one.add_argument("--validation", nargs="+", required=True)
    one.add_argument("--test", nargs="+", help="pairs to measure on (those of validation)")
    one.add_argument("--recipe", type=Path, default=Path("recipes/multi30k.toml"))
    one.add_argument("--seconds", type=float, default=600)
    one = commands.add_parser("training")
    one.add_argument("data", nargs="+")
    one.add_argument("--steps", type=int, default=100)
    one = commands.add_parser("speed")
    one.add_argument("run")
    one.add_argument("file")
    given = parser.parse_args()
    if given.command == "table":
        table(given.data, given.validation, given.test or given.validation, given.recipe, given.seconds)
    elif given.command == "training":
        training(given.data, given.steps)
    else:
        speed(given.run, given.file)


if __name__ == "__main__":
    main()
