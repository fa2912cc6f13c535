"""What fewer bits cost a trained model, and what they gain: `python -m benchmarks.sampling RUN TEXT`.

Bits per character over the first 20,000 tokens of TEXT, read one step at a time by the streaming engine with the run's
weights in fp32, bf16 and int8; and how fast each writes.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from pathlib import Path

import torch

from unrolled.streaming import Streamer
from unrolled.tasks.language_model.data import encode
from unrolled.tasks.language_model.task import Run

TOKENS, WRITTEN = 20_000, 5_000


def bits_per_character(streamer: Streamer, run: Run, ids: torch.Tensor) -> float:
    nats = 0.0
    for token, following in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        streamer.feed([token])
        nats -= float(torch.log_softmax(streamer.logits()[0], -1)[following])
    characters = run.tokenizer.characters_per_token()
    if characters is None:
        raise SystemExit("bits per character need a unit that gives the text back: char, byte or bpe.")
    return nats / math.log(2) / int(characters[ids[1:].numpy()].sum())


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.sampling RUN TEXT")
    run = Run(Path(sys.argv[1]))
    ids = torch.from_numpy(encode([sys.argv[2]], run.tokenizer)[: TOKENS + 1])
    exact = None
    for precision in ("fp32", "bf16", "int8"):
        streamer = Streamer(run.model.layers, **run.model.tables(), precision=precision)
        with torch.no_grad():
            bits = bits_per_character(streamer, run, ids)
        exact = bits if exact is None else exact
        rates = []
        for seed in range(5):
            started = time.perf_counter()
            written = len("".join(run.sample(length=WRITTEN, seed=seed, precision=precision)))
            rates.append(written / (time.perf_counter() - started))
        print(
            f"{precision}: {bits:.4f} bits per character ({bits - exact:+.4f}), "
            f"{statistics.median(rates):,.0f} characters a second, packing the weights included"
        )


if __name__ == "__main__":
    main()
