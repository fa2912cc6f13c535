"""Recurrent layers on the CPU beside torch.nn's, taking turns in one process.

A figure is the median of its calls; outputs are compared in the same run before anything is timed. The share of peak refers
to the multiply-add peak of this machine, measured between the cells. `unrolled bench` is the short version;
`python -m benchmarks.layers` the whole table.
"""

from __future__ import annotations

import datetime
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import unrolled
from unrolled.inspection.doctor import processor
from unrolled.kernels import library

SHAPES = (
    (100, 64, 128, 128),
    (50, 50, 64, 512),
    (100, 32, 256, 256),
    (128, 64, 512, 512),
    (35, 20, 650, 650),
    (100, 1, 256, 256),
    (1000, 8, 64, 64),
    (200, 128, 32, 32),
    (512, 16, 1024, 1024),
)
QUICK_SHAPES = ((100, 64, 128, 128), (100, 1, 256, 256), (200, 128, 32, 32))
MODES = ("LSTM", "GRU", "RNN_TANH")
PASSES = ("inference", "training")
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}
SLOW = 3.0  # a peer whose call takes so many seconds is timed by its first
Call = Callable[[], Tensor]
Peer = Callable[[nn.RNNBase, Tensor, Tensor, str, int], Call | None]
"""(torch.nn's layer, x, gradient of the output, pass, threads) -> a call that gives the output, or None without such a pass."""


def ours_of(module: nn.RNNBase, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Our layer with a torch.nn module's weights."""
    layer = getattr(unrolled, type(module).__name__)(module.input_size, module.hidden_size)
    layer.load_state_dict(module.state_dict())
    return layer.to(dtype)


def inference(layer: Any, x: Tensor) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            return layer(x)[0]

    return call


def training(layer: Any, x: Tensor, d_out: Tensor) -> Call:
    x = x.clone().requires_grad_()

    def call() -> Tensor:
        output = layer(x)[0]
        output.backward(d_out)
        x.grad = None
        for p in layer.parameters():
            p.grad = None
        return output

    return call


def peers(mode: str, module: nn.RNNBase, x: Tensor, d_out: Tensor, what: str) -> dict[str, Call]:
    """name -> call. Ours first; `ours again` is the same thing once more, for the noise."""
    bf16 = torch.nn.__dict__[mode.split("_")[0]](module.input_size, module.hidden_size).to(torch.bfloat16)
    bf16.load_state_dict(module.state_dict())
    ours, ours16 = ours_of(module), ours_of(module, torch.bfloat16)
    x16, d16 = x.bfloat16(), d_out.bfloat16()
    layers = {
        "ours": (ours, x, d_out),
        "torch": (module, x, d_out),
        "ours again": (ours, x, d_out),
        "ours bf16": (ours16, x16, d16),
        "torch bf16": (bf16, x16, d16),
    }
    make = {"inference": lambda layer, x, _: inference(layer, x), "training": training}[what]
    return {name: make(*args) for name, args in layers.items()}


def compare(calls: dict[str, Call]) -> tuple[float, dict[str, float]]:
    """The largest difference between our output and torch's, and what a first call took; refuses to time what disagrees."""
    reference, seconds, apart = calls["torch"]().detach(), {}, 0.0
    for name, call in calls.items():
        start = time.perf_counter()
        output = call().detach().float()
        seconds[name] = time.perf_counter() - start
        if "bf16" not in name:
            difference, limit, how = (output - reference).abs().max().item(), 1e-5, "at most"
        elif name == "torch bf16":
            continue
        else:
            difference, limit, how = ((output - reference).norm() / reference.norm()).item(), 2e-2, "relative L2"
        if not difference < limit:
            raise SystemExit(f"{name} and torch.nn disagree by {difference} ({how}, allowed: {limit})")
        apart = max(apart, difference) if name == "ours" else apart
    return apart, seconds


def take_turns(
    calls: dict[str, Call], first: dict[str, float], seconds: float, least: int, rest: float = 0
) -> dict[str, list[float]]:
    """Times of each, by turns. Peers that have thread pools of their own get a moment's rest before each call, so that the
    threads of the last one go to sleep. One whose call takes too long is timed by its first.
    """
    slow = {name for name in calls if rest and name != "ours" and first[name] >= SLOW}
    times: dict[str, list[float]] = {name: [first[name]] if name in slow else [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < (2 if first["ours"] > SLOW else least) or time.perf_counter() < end:
        for name, call in calls.items():
            if name in slow:
                continue
            if rest:
                time.sleep(rest)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return times


def measure(
    mode: str,
    shape: tuple[int, int, int, int],
    threads: int,
    what: str,
    seconds: float,
    least: int,
    others: Mapping[str, Peer] | None = None,
) -> dict[str, Any]:
    """One cell of the table."""
    T, B, width, H = shape
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    module = getattr(torch.nn, mode.split("_")[0])(width, H)
    x, d_out = torch.randn(T, B, width), torch.randn(T, B, H)
    calls = peers(mode, module, x, d_out, what)
    difference, first = compare(calls)
    peak = library.fma_peak(torch.float32, threads, 0.05)
    times = take_turns(calls, first, seconds, least)
    medians = {name: statistics.median(t) for name, t in times.items()}
    made = {name: peer(module, x, d_out, what, threads) for name, peer in (others or {}).items()}
    foreign = {name: call for name, call in made.items() if call is not None}
    others_over_ours = {}
    if foreign:  # apart from the others: their threads wait by spinning, which costs whoever is timed beside them
        _, first = compare({"ours": calls["ours"], "torch": calls["torch"], **foreign})
        beside = take_turns({"ours": calls["ours"], **foreign}, first, seconds, least, rest=0.003)
        ours = statistics.median(beside["ours"])
        others_over_ours = {name: statistics.median(beside[name]) / ours for name in foreign}
    best = {name: min(t) for name, t in times.items()}
    flops = 2 * T * B * GATES[mode] * H * (width + H) * (3 if what == "training" else 1)
    return {
        "mode": mode,
        "T": T,
        "B": B,
        "I": width,
        "H": H,
        "threads": threads,
        "what": what,
        "seconds": medians,
        "best_seconds": best,
        "difference": difference,
        "rounds": len(times["ours"]),
        "peak_gflops": peak / 1e9,
        "percent_of_peak": 100 * flops / medians["ours"] / peak,
        "best_percent_of_peak": 100 * flops / best["ours"] / peak,
        "over_torch": medians["torch"] / medians["ours"],
        "best_over_torch": best["torch"] / best["ours"],
        "others_over_ours": others_over_ours,
        "bf16_over_torch": medians["torch"] / medians["ours bf16"],
        "noise": abs(medians["ours again"] / medians["ours"] - 1),
    }


def geometric_mean(values: Any) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def machine() -> dict[str, Any]:
    """What a table of timings says of where and when it was made."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"processor": processor(), "isa": library.isa(), **versions, "date": str(datetime.date.today())}


HEADER = (
    f"{'cell':9}{'T, B, I, H':21}{'thr':>3} {'what':9}{'ours ms':>9}{'torch ms':>9}{'torch/ours':>11}"
    f"{'(best)':>8}{'% peak':>8}{'(best)':>7}{'bf16 ms':>9}{'torch/bf16':>11}{'noise':>7}"
)


def line(r: dict[str, Any]) -> str:
    shape = f"{r['T']}, {r['B']}, {r['I']}, {r['H']}"
    s = r["seconds"]
    bf16 = f"{1e3 * s['ours bf16']:9.2f}{r['bf16_over_torch']:11.2f}"
    return (
        f"{r['mode']:9}{shape:21}{r['threads']:3} {r['what']:9}{1e3 * s['ours']:9.2f}{1e3 * s['torch']:9.2f}"
        f"{r['over_torch']:11.2f}{r['best_over_torch']:8.2f}{r['percent_of_peak']:8.0f}"
        f"{r['best_percent_of_peak']:7.0f}{bf16}{100 * r['noise']:6.0f}%"
        + "".join(f"  {name} {ratio:.2f}" for name, ratio in r["others_over_ours"].items())
    )


def means_of(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Geometric means over the table, the least ratio in it, and the share of peak of its large cells, by cell and pass."""
    means = {}
    for mode, what in dict.fromkeys((r["mode"], r["what"]) for r in results):
        rows = [r for r in results if (r["mode"], r["what"]) == (mode, what)]
        names = dict.fromkeys(name for r in rows for name in r["others_over_ours"])
        large = [r["percent_of_peak"] for r in rows if r["H"] >= 128 and r["B"] >= 16]
        means[f"{mode} {what}"] = {
            "over_torch": geometric_mean(r["over_torch"] for r in rows),
            "best_over_torch": geometric_mean(r["best_over_torch"] for r in rows),
            "bf16_over_torch": geometric_mean(r["bf16_over_torch"] for r in rows),
            "least_over_torch": min(r["over_torch"] for r in rows),
            "others": {
                name: {
                    "over_ours": geometric_mean(row[name] for row in ratios),
                    "least": min(row[name] for row in ratios),
                }
                for name in names
                for ratios in [[r["others_over_ours"] for r in rows if name in r["others_over_ours"]]]
            },
            "large_percent_of_peak": [min(large), statistics.median(large), max(large)] if large else None,
        }
    return means


def summary(results: list[dict[str, Any]]) -> Iterator[str]:
    for name, m in means_of(results).items():
        yield (
            f"{name:20} geometric mean over torch {m['over_torch']:.2f} (best of each {m['best_over_torch']:.2f}), "
            f"least {m['least_over_torch']:.2f}; bf16 over torch fp32 {m['bf16_over_torch']:.2f}"
            + "".join(f"; {peer} {one['over_ours']:.2f}, least {one['least']:.2f}" for peer, one in m["others"].items())
        )
    yield f"median noise {100 * statistics.median(r['noise'] for r in results):.1f}%"


def short_table() -> Iterator[str]:
    """The lines of `unrolled bench`, as they become known: three shapes, all cells, this machine's threads."""
    yield ", ".join(f"{name} {value}" for name, value in machine().items())
    yield HEADER
    results = []
    for mode in MODES:
        for shape in QUICK_SHAPES:
            for what in PASSES:
                results.append(measure(mode, shape, torch.get_num_threads(), what, seconds=0.5, least=3))
                yield line(results[-1])
    yield from summary(results)
