"""Steps of labelling by `lengths`, beside the same model on torch.nn with packing: `python -m benchmarks.lengths`.

    python -m benchmarks.lengths [--words FILE.conllu...] [--audio FILES...] [--steps 60]

Words: a tag for each word of a sentence (LinES). Audio: a digit for a whole recording (FSDD). Without files their lengths are
drawn from distributions that fit those of the two, and inputs are random. Both models learn from the same batches, step by step
in turn, in one process: forward, backward, clipping, AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from unrolled import optimizer, restore
from unrolled.data.batches import LengthBatches
from unrolled.data.sequences import Kind, Sequence
from unrolled.inspection.speed import machine
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Numbering, batch_of, learn
from unrolled.tasks.labelling.loss import training_loss
from unrolled.tasks.labelling.model import Labeller
from unrolled.tasks.labelling.read import read


class Packed(nn.Module):
    """torch.nn's layer where ours takes `lengths`, by packing."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.bidirectional = layer, layer.bidirectional

    def forward(self, x: torch.Tensor, state: Any = None, *, lengths: torch.Tensor) -> Any:
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        output, state = self.layer(packed, state)
        return pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], state


def lengths_like(median: float, spread: float, count: int) -> np.ndarray:
    """Log-normal: half of them shorter than `median`, two thirds within a factor of exp(spread)."""
    return np.maximum(1, np.random.default_rng(0).lognormal(np.log(median), spread, count).round()).astype(int)


def sentences() -> list[Sequence]:
    """As long as those of LinES: half of them shorter than 16 words, 10% than 7, 10% longer than 34."""
    chance = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    vocabulary = ["".join(chance.choice(letters, length)) for length in 1 + chance.poisson(5, 9000)]
    several = []
    for length in lengths_like(16, 0.59, 3457):
        words = [vocabulary[n] for n in np.minimum(chance.zipf(1.2, length), len(vocabulary)) - 1]
        several.append(Sequence("", words, [str(n) for n in chance.integers(17, size=length)]))
    return several


def recordings() -> list[Sequence]:
    """As long as those of FSDD, in steps of 10 ms: half of them shorter than 42, 10% than 29, 10% longer than 61."""
    chance = np.random.default_rng(1)
    lengths = lengths_like(42, 0.3, 1200)
    return [Sequence("", chance.normal(size=(length, 40)).astype(np.float32), str(length % 10)) for length in lengths]


def compare(kind: Kind, config: Config, sequences: list[Sequence], steps: int) -> None:
    encoding = learn(config, kind, sequences)
    numbering = Numbering(config, encoding.labels)
    examples = [numbering.example(one) for one in sequences]
    lengths = np.array([len(one) for one in sequences])
    batches = LengthBatches(lengths, config.batch_size, seed=0)
    models = {}
    for name in ("ours", "torch.nn"):
        torch.manual_seed(0)
        model = Labeller(config.model_copy(update={"dropout": 0.0, "word_dropout": 0.0}), encoding)
        if name == "torch.nn":
            restore(model)
            model.layers = Packed(model.layers)  # type: ignore[arg-type]  # a recurrent layer: never cell = none here
            if kind == "words":
                model.front.letters = Packed(model.front.letters)  # type: ignore[arg-type]  # words: there are letters
        models[name] = model, optimizer.build(model, config), []
    losses: dict[str, float] = {}
    for number in range(steps):
        batch = batch_of([examples[n] for n in batches[number]], encoding, config)
        for name, (model, adamw, times) in models.items():
            began = time.perf_counter()
            step = training_loss(model, batch, config)
            step.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            adamw.step()
            adamw.zero_grad()
            times.append(time.perf_counter() - began)
            losses[name] = float(step.loss.detach())
        if number == 0:  # the same weights on the same batch
            torch.testing.assert_close(losses["ours"], losses["torch.nn"], rtol=1e-4, atol=1e-5)
    ours, theirs = (1e3 * statistics.median(times[steps // 10 :]) for _, _, times in models.values())
    layers = f"{'bidirectional ' if config.bidirectional else ''}{config.cell} of {config.hidden_size}"
    print(
        f"{kind} per {config.per}, {layers}, {len(sequences):,} sequences of {lengths.min()} to {lengths.max()} steps "
        f"(median {np.median(lengths):.0f}), batches of {config.batch_size}, {batches.padding():.1%} padding: "
        f"{ours:.2f} ms a step by lengths, {theirs:.2f} ms packed, {theirs / ours:.2f} times ours"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", nargs="+", help="files of CoNLL columns or CoNLL-U")
    parser.add_argument("--audio", nargs="+", help="labelled recordings, in any form that training takes")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    facts = {**machine(), "threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for cell in ("lstm", "gru"):
        words, audio = Config(cell=cell), Config(cell=cell, per="sequence")  # type: ignore[arg-type]  # a cell's name, checked by Config
        compare("words", words, list(read(words, "words", given.words)) if given.words else sentences(), given.steps)
        compare("audio", audio, list(read(audio, "audio", given.audio)) if given.audio else recordings(), given.steps)


if __name__ == "__main__":
    main()
