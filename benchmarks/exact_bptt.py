"""What exact BPTT within a memory budget costs: `python -m benchmarks.exact_bptt`.

First at a length where full BPTT fits too, so that the slowdown can be stated; then at 100,000 steps. Every run is a
process of its own, and full and exact take turns. "tensors" is what the plan expects, "process" how much the process's
own peak (ru_maxrss) rose over that of a short full BPTT, which has loaded all code and made the gradients.
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

import torch

import unrolled
from unrolled import bptt

WIDTH = 64  # of the inputs, which are drawn piece by piece and never live at once


def measure(cell: str, steps: int, batch: int, hidden: int, memory: int | None, threads: int) -> dict:
    """Run one full (memory None) or exact BPTT in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer = getattr(unrolled, cell)(WIDTH, hidden)

    def piece(steps: slice) -> torch.Tensor:
        return torch.sin(torch.arange(steps.start, steps.stop)[:, None, None] * torch.arange(1.0, WIDTH + 1)).expand(
            -1, batch, -1
        )

    def loss(outputs: torch.Tensor, _: slice) -> torch.Tensor:
        return outputs.square().sum() / steps

    for _ in range(3):
        loss(layer(piece(slice(0, 200)))[0], slice(0, 200)).backward()
    layer.zero_grad(set_to_none=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    if memory is None:
        value, plan = loss(layer(piece(slice(0, steps)))[0], slice(0, steps)), None
        value.backward()
    else:
        value, _, plan = bptt.exact(layer, piece, loss=loss, memory=memory, steps=steps)
    gradients = [weight.grad for weight in layer.parameters() if weight.grad is not None]
    return {
        "loss": float(value.detach()),
        "gradient": float(torch.cat([gradient.flatten() for gradient in gradients]).norm()),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "process": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "plan": None if plan is None else plan._asdict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", choices=["RNN", "LSTM", "GRU"], default="LSTM")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--both", type=int, default=8_000, help="steps where full and exact are compared")
    parser.add_argument("--long", type=int, default=100_000, help="steps of the long run; 0 leaves it out")
    parser.add_argument("--memory", type=float, nargs="+", default=[16, 64, 2048], help="budgets in MiB")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many is stated for --both")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a run in its own process
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return

    def run(steps: int, memory: int | None) -> dict:
        case = {name: getattr(arguments, name) for name in ("cell", "batch", "hidden", "threads")}
        case |= {"steps": steps, "memory": memory}
        print(f"{steps:,} steps, {'full' if memory is None else f'{memory >> 20} MiB'}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.exact_bptt", "--one", json.dumps(case)]
        return case | json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    budgets = [int(size * 2**20) for size in arguments.memory]
    rounds = [[run(arguments.both, memory) for memory in (None, *budgets)] for _ in range(arguments.repeats)]
    rows = [
        taken[0] | {key: statistics.median(one[key] for one in taken) for key in ("seconds", "cpu_seconds", "process")}
        for taken in zip(*rounds, strict=True)
    ]
    rows += [run(arguments.long, budgets[-1])] if arguments.long else []
    for row in rows:
        row["slowdown"] = row["cpu_seconds"] / rows[0]["cpu_seconds"] * arguments.both / row["steps"]
    if arguments.json:
        print(json.dumps(rows))
        return
    sizes = f"{arguments.cell}, B={arguments.batch}, H={arguments.hidden}"
    print(f"{sizes}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'steps':>8} {'budget':>9} {'tensors':>9} {'process':>9} {'segment':>8} {'kept':>5} {'again':>6}", end="")
    print(f" {'seconds':>8} {'CPU s':>8} {'slowdown':>8}")
    for row in rows:
        plan = row["plan"] or {"memory": 0, "segment": row["steps"], "kept": 0, "recomputed": 0.0}
        budget = "full" if row["memory"] is None else f"{row['memory'] / 2**20:.0f} MiB"
        print(f"{row['steps']:8,} {budget:>9} {plan['memory'] / 2**20:5.0f} MiB", end="")
        print(f" {row['process'] / 2**20:5.0f} MiB", end="")
        print(f" {plan['segment']:8} {plan['kept']:5} {plan['recomputed']:6.2f}", end="")
        print(f" {row['seconds']:8.1f} {row['cpu_seconds']:8.1f} {row['slowdown']:7.2f}x")


if __name__ == "__main__":
    main()
