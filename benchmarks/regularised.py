"""What the layers' options cost: beside our plain layer, and beside the same written as a loop of torch's operators.

`python -m benchmarks.regularised`: forward and backward, medians, all taking turns in one process. Outputs are compared
first; where an option draws masks, both get the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import unrolled
from unrolled.cells import Norm, gru_from_gates, lstm_from_gates, norm_widths, normalised
from unrolled.inspection.speed import machine

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "forget_bias=1": {"forget_bias": 1.0},
    "learned_state": {"learned_state": True},
    "layer_norm": {"layer_norm": True},
    "recurrent_dropout=0.3": {"recurrent_dropout": 0.3},
    "zoneout=0.1": {"zoneout": 0.1},
    "all of them": {"layer_norm": True, "recurrent_dropout": 0.3, "zoneout": 0.1, "learned_state": True},
}


def loop(cell: str, layer: nn.Module, options: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """What somebody writes with torch: `nn.LSTMCell` or `GRUCell` step by step, or, for LayerNorm, its equations."""
    H = layer.hidden_size
    rate, zone = options.get("recurrent_dropout", 0.0), options.get("zoneout", 0.0)
    theirs = getattr(nn, f"{cell}Cell")(layer.input_size, H)
    w = {name.removesuffix("_l0"): value for name, value in layer.named_parameters()}
    theirs.load_state_dict({name: value.detach() for name, value in w.items() if name in theirs.state_dict()})

    def begin(name: str, x: Tensor) -> Tensor:
        return w[name].expand(x.shape[1], H) if name in w else x.new_zeros(x.shape[1], H)

    def normed_step(x_t: Tensor, h: Tensor, seen: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        widths = norm_widths(len(w["gain_ih"]) // H, H)
        a = normalised(linear(x_t, w["weight_ih"]), w["gain_ih"], w["bias_ih"], widths)
        b = normalised(linear(seen, w["weight_hh"]), w["gain_hh"], w["bias_hh"], widths)
        if cell == "LSTM":
            return lstm_from_gates(a + b, c, Norm(w["gain_c"], w["bias_c"]))
        return gru_from_gates(a, b, h), c

    def run(x: Tensor) -> Tensor:
        h, c, outputs = begin("initial_h", x), begin("initial_c", x), []
        mask = torch.empty_like(h).bernoulli_(1 - rate).div_(1 - rate) if rate else None
        stay = torch.empty(*x.shape[:2], H, dtype=torch.bool).bernoulli_(zone) if zone else None
        for t in range(x.shape[0]):
            seen, before = h if mask is None else h * mask, h
            if options.get("layer_norm"):
                h, c = normed_step(x[t], h, seen, c)
            elif cell == "LSTM":
                h, c = theirs(x[t], (seen, c))
            elif mask is None:
                h = theirs(x[t], h)
            else:  # GRUCell would take what is dropped from what is kept of h, too
                a, b = linear(x[t], theirs.weight_ih, theirs.bias_ih), linear(seen, theirs.weight_hh, theirs.bias_hh)
                h = gru_from_gates(a, b, h)
            if stay is not None:
                h = torch.where(stay[t], before, h)
            outputs.append(h)
        return torch.stack(outputs)

    return run


def measure(cell: str, T: int, B: int, H: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Option -> milliseconds of our layer, of the loop, and of our layer without options."""
    x, calls = torch.randn(T, B, H), {}
    for name, options in OPTIONS.items():
        if "forget_bias" in options and cell != "LSTM":
            continue
        layer = getattr(unrolled, cell)(H, H, **options)
        other = loop(cell, layer, options)
        outputs = []
        for one in (lambda layer=layer: layer(x)[0], lambda other=other: other(x)):
            torch.manual_seed(0)
            outputs.append(one())
        # Later steps drift apart: normalisation makes much of roundings.
        torch.testing.assert_close(outputs[0][:20], outputs[1][:20], rtol=1e-3, atol=1e-4)
        calls[name, "ours"] = lambda layer=layer: layer(x)[0].sum().backward()
        calls[name, "loop"] = lambda other=other: other(x).sum().backward()
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            started = time.perf_counter()
            call()
            taken[key].append(time.perf_counter() - started)
    medians = {key: 1e3 * statistics.median(seconds) for key, seconds in taken.items()}
    names = dict.fromkeys(name for name, _ in calls)
    return {name: (medians[name, "ours"], medians[name, "loop"], medians["plain", "ours"]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", choices=["LSTM", "GRU"], default=["LSTM", "GRU"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    T, B, H = arguments.steps, arguments.batch, arguments.hidden
    print(", ".join(f"{name} {value}" for name, value in {**machine(), "threads": arguments.threads}.items()))
    print(f"forward and backward, T={T}, B={B}, I=H={H}; milliseconds")
    print(f"{'':6}{'option':24}{'ours':>8}{'loop':>9}{'loop / ours':>13}{'ours / plain':>14}")
    for cell in arguments.cells:
        for name, (ours, theirs, plain) in measure(cell, T, B, H, arguments.rounds).items():
            print(f"{cell:6}{name:24}{ours:8.2f}{theirs:9.2f}{theirs / ours:13.2f}{ours / plain:14.2f}")


if __name__ == "__main__":
    main()
