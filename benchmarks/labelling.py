"""Labelling: `python -m benchmarks.labelling live` prints how long a live label takes, from a row of CSV to its printed line.

An LSTM of 2 layers of 128 units on 16 sensors with 10 labels, one direction, fresh weights, one thread; 5,000 steps after 500
that are not counted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import types

import numpy as np
import torch

from unrolled.data import live_rows
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.live import Follower
from unrolled.tasks.labelling.model import Labeller

SENSORS, LABELS, STEPS, WARM = 16, 10, 5000, 500


def live() -> None:
    torch.set_num_threads(1)
    config = Config(hidden_size=128, num_layers=2, bidirectional=False)
    encoding = Encoding(
        kind="numbers", labels=[f"label {n}" for n in range(LABELS)], mean=[0.0] * SENSORS, deviation=[1.0] * SENSORS
    )
    follower = Follower(Labeller(config, encoding).eval(), encoding, config)
    numbers = np.random.default_rng(0).normal(size=(WARM + STEPS, SENSORS))
    text = "".join(",".join(f"{one:.4f}" for one in row) + "\n" for row in numbers)
    sys.stdin = types.SimpleNamespace(buffer=io.BytesIO(text.encode()))  # type: ignore[assignment]  # all that is read of it
    latencies = []
    with open(os.devnull, "w") as printed:
        for name, at, inputs in live_rows.rows():
            for step, label, probabilities in follower.step(inputs, name):
                printed.write(f"{step},{label},{probabilities.max():.4f}\n")
            printed.flush()
            latencies.append(time.perf_counter() - at)
    median, p99 = np.percentile(np.array(latencies[WARM:]) * 1e3, [50, 99])
    print(f"live, LSTM 2 x 128, {SENSORS} sensors: median {median:.3f} ms, p99 {p99:.3f} ms per step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_subparsers(dest="command", required=True).add_parser("live")
    parser.parse_args()
    live()


if __name__ == "__main__":
    main()
