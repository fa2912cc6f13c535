"""Peak memory and time of training on long sequences, by what is kept for backward: `python -m benchmarks.memory`.

The default keeps the gates of every step; `save="outputs"` keeps h alone, and computes gates again when backward comes to
them. Both beside torch.nn. The memory is the process's: how much its peak (ru_maxrss) during forward and backward lies above
what it held before, each case in a process of its own; the output and the gradients of the input and the output, which exist
in every case, are in it. "Activations" is the rise during forward alone, without the output. Times are medians of one
process, where the cases take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import unrolled
from unrolled.inspection.speed import machine

CASES = ("gates", "outputs", "torch.nn")


def layer_of(cell: str, case: str, hidden: int) -> nn.Module:
    if case == "torch.nn":
        return getattr(nn, cell)(hidden, hidden)
    return getattr(unrolled, cell)(hidden, hidden, save=case)


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(cell: str, case: str, steps: int, batch: int, hidden: int) -> dict[str, int]:
    """Bytes, measured in this process."""
    layer = layer_of(cell, case, hidden)
    layer(torch.randn(8, batch, hidden))[0].sum().backward()  # loads the code, makes the gradients
    x, d_out = torch.randn(steps, batch, hidden).requires_grad_(), torch.randn(steps, batch, hidden)
    before = peak()
    output = layer(x)[0]
    forward = peak()
    output.backward(d_out)
    return {"activations": forward - before - 4 * output.numel(), "peak": peak() - before}


def times(cell: str, steps: int, batch: int, hidden: int, rounds: int) -> dict[str, float]:
    """Seconds of forward and backward, medians, in turns."""
    x, d_out = torch.randn(steps, batch, hidden).requires_grad_(), torch.randn(steps, batch, hidden)
    layers = {case: layer_of(cell, case, hidden) for case in CASES}
    for layer in layers.values():
        layer.load_state_dict(layers["torch.nn"].state_dict())

    def call(layer: Callable[[Tensor], tuple[Tensor, object]]) -> Tensor:
        output = layer(x)[0]
        output.backward(d_out)
        return output.detach()

    outputs = {case: call(layer) for case, layer in layers.items()}
    for case in CASES:
        torch.testing.assert_close(outputs[case], outputs["torch.nn"], rtol=1e-4, atol=1e-5)
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, layer in layers.items():
            started = time.perf_counter()
            call(layer)
            taken[case].append(time.perf_counter() - started)
    return {case: statistics.median(seconds) for case, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=["RNN", "LSTM", "GRU"], default=["LSTM", "GRU", "RNN"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement in its own process
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(memory(**json.loads(arguments.one))))
        return
    sizes = {name: getattr(arguments, name) for name in ("steps", "batch", "hidden")}
    print(", ".join(f"{name} {value}" for name, value in {**machine(), "threads": arguments.threads}.items()))
    print(f"forward and backward, T={arguments.steps}, B={arguments.batch}, I=H={arguments.hidden}")
    print(f"{'':6}{'kept':10}{'activations':>12}{'peak':>10}{'seconds':>9}{'of gates':>9}")
    found: dict[tuple[str, str], dict[str, int]] = {}
    for cell in arguments.cells:  # before anything is timed here: a process's peak begins at that of the one that started it
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.memory", "--threads", str(arguments.threads)]
            command += ["--one", json.dumps({"cell": cell, "case": case, **sizes})]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            found[cell, case] = json.loads(ran.stdout)
    for cell in arguments.cells:
        seconds = times(cell, **sizes, rounds=arguments.rounds)
        for case in CASES:
            held, time_share = found[cell, case], seconds[case] / seconds["gates"]
            print(f"{cell:6}{case:10}{held['activations'] / 2**20:8.0f} MiB{held['peak'] / 2**20:6.0f} MiB", end="")
            print(f"{seconds[case]:9.2f}{time_share:9.2f}")


if __name__ == "__main__":
    main()
