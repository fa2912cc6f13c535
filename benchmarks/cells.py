"""Loops of single steps over torch.nn's cells and over ours, interleaved in one process: `python -m benchmarks.cells`.

Each round times both on 16 steps, forwards without gradients, or forwards and backwards; medians of all rounds, and how many
times faster ours are. `B` sequences, as many inputs as hidden units.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from unrolled.inspection.speed import machine

STEPS = 16
CELLS = {"LSTM": "LSTMCell", "GRU": "GRUCell", "RNN": "RNNCell"}
BATCHES, WIDTHS = (1, 16, 128), (64, 256, 1024)


def inference(cell: nn.Module, xs: Tensor) -> Tensor:
    state: Any = None  # a pair for the LSTM
    with torch.no_grad():
        for x in xs:
            state = cell(x, state)
    return state[0] if isinstance(state, tuple) else state


def training(cell: nn.Module, xs: Tensor) -> Tensor | None:
    state: Any = None
    for x in xs:
        state = cell(x, state)
    h = state[0] if isinstance(state, tuple) else state
    for parameter in cell.parameters():
        parameter.grad = None
    h.sum().backward()
    return cell.get_parameter("weight_hh").grad


def medians(run: Callable[[nn.Module, Tensor], Any], cells: list[nn.Module], xs: Tensor, seconds: float) -> list[float]:
    """Seconds a step of each cell."""
    results = [run(cell, xs) for cell in cells]
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3 * float(results[0].abs().max()))
    times: list[list[float]] = [[] for _ in cells]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for cell, taken in zip(cells, times, strict=True):
            start = time.perf_counter()
            run(cell, xs)
            taken.append((time.perf_counter() - start) / STEPS)
    return [statistics.median(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description="Loops of single steps, torch.nn's cells beside ours.")
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line of the table and pass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{args.threads} thread(s); microseconds a step")
    print("cell     B     H   inference: torch.nn      ours  ratio   training: torch.nn      ours  ratio")
    for name in args.cells:
        for width in args.widths:
            for batch in args.batches:
                torch.manual_seed(0)
                cells = [getattr(home, CELLS[name])(width, width) for home in (nn, unrolled)]
                cells[1].load_state_dict(cells[0].state_dict())
                xs, line = torch.randn(STEPS, batch, width), f"{name:<5}{batch:>5} {width:>5}"
                for run in (inference, training):
                    theirs, ours = medians(run, cells, xs, args.seconds)
                    line += f"  {1e6 * theirs:>19.1f} {1e6 * ours:>9.1f}  {theirs / ours:>5.2f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
