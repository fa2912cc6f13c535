"""Recurrent layers on the CPU beside their peers: `python -m benchmarks.layers`.

One table. In every cell ours and the peers take turns, call by call, in the same process; a figure is the median of its
calls, and outputs are compared in the same run before anything is timed. The share of peak refers to the multiply-add
peak of this machine, measured between the cells. `--quick` is short, `--json` prints one object.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time

import torch

import unrolled
from unrolled.kernels import native

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
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1}


def ours_of(module: torch.nn.RNNBase, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Our layer with a torch.nn module's weights."""
    layer = getattr(unrolled, type(module).__name__)(module.input_size, module.hidden_size)
    layer.load_state_dict(module.state_dict())
    return layer.to(dtype)


def inference(layer, x):
    def call():
        with torch.inference_mode():
            return layer(x)[0]

    return call


def training(layer, x, d_out):
    x = x.clone().requires_grad_()

    def call():
        output = layer(x)[0]
        output.backward(d_out)
        x.grad = None
        for p in layer.parameters():
            p.grad = None
        return output

    return call


def peers(mode, module, x, d_out, what):
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
    if torch.bfloat16 not in native.dtypes:
        del layers["ours bf16"]
    make = {"inference": lambda layer, x, _: inference(layer, x), "training": training}[what]
    return {name: make(*args) for name, args in layers.items()}


def compare(calls) -> float:
    """The largest difference between our output and torch's; refuses to time things that disagree."""
    reference = calls["torch"]().detach()
    worst = (calls["ours"]().detach() - reference).abs().max().item()
    if not worst < 1e-5:
        raise SystemExit(f"ours and torch.nn disagree by {worst}")
    if "ours bf16" in calls:
        relative = ((calls["ours bf16"]().detach().float() - reference).norm() / reference.norm()).item()
        if not relative < 2e-2:
            raise SystemExit(f"ours in bf16 and torch.nn in fp32 disagree by {relative} (relative L2)")
    return worst


def take_turns(calls, seconds: float, least: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return times


def measure(mode, shape, threads, what, seconds, least):
    T, B, width, H = shape
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    module = getattr(torch.nn, mode.split("_")[0])(width, H)
    x, d_out = torch.randn(T, B, width), torch.randn(T, B, H)
    calls = peers(mode, module, x, d_out, what)
    difference = compare(calls)
    peak = native.fma_peak(torch.float32, threads, 0.05)
    times = take_turns(calls, seconds, least)
    medians = {name: statistics.median(t) for name, t in times.items()}
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
        "bf16_over_torch": medians["torch"] / medians["ours bf16"] if "ours bf16" in medians else None,
        "noise": abs(medians["ours again"] / medians["ours"] - 1),
    }


def geometric_mean(values) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def machine() -> dict:
    name = platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": name, "isa": native.isa(), "torch": torch.__version__, "python": platform.python_version()}


HEADER = (
    f"{'cell':9}{'T, B, I, H':21}{'thr':>3} {'what':9}{'ours ms':>9}{'torch ms':>9}{'torch/ours':>11}"
    f"{'(best)':>8}{'% peak':>8}{'(best)':>7}{'bf16 ms':>9}{'torch/bf16':>11}{'noise':>7}"
)


def line(r) -> str:
    shape = f"{r['T']}, {r['B']}, {r['I']}, {r['H']}"
    s = r["seconds"]
    bf16 = f"{1e3 * s['ours bf16']:9.2f}{r['bf16_over_torch']:11.2f}" if r["bf16_over_torch"] else f"{'-':>9}{'-':>11}"
    return (
        f"{r['mode']:9}{shape:21}{r['threads']:3} {r['what']:9}{1e3 * s['ours']:9.2f}{1e3 * s['torch']:9.2f}"
        f"{r['over_torch']:11.2f}{r['best_over_torch']:8.2f}{r['percent_of_peak']:8.0f}"
        f"{r['best_percent_of_peak']:7.0f}{bf16}{100 * r['noise']:6.0f}%"
    )


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three shapes, half a second each")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    parser.add_argument("--seconds", type=float, help="time per cell of the table")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--shapes", nargs="+", type=int, help="which of the shapes, counted from 0")
    args = parser.parse_args(argv)
    if not native.available():
        sys.exit(f"nothing to measure: {native.why_not()}")
    shapes = QUICK_SHAPES if args.quick else SHAPES
    if args.shapes:
        shapes = [SHAPES[i] for i in args.shapes]
    seconds = args.seconds or (0.5 if args.quick else 2.0)
    out = sys.stderr if args.json else sys.stdout
    print(", ".join(f"{k} {v}" for k, v in machine().items()), file=out)
    print(HEADER, file=out)
    results = []
    for threads in args.threads:
        for mode in args.modes:
            for shape in shapes:
                for what in ("inference", "training"):
                    results.append(measure(mode, shape, threads, what, seconds, least=3))
                    print(line(results[-1]), file=out, flush=True)
    means = {}
    for mode in args.modes:
        for what in ("inference", "training"):
            rows = [r for r in results if r["mode"] == mode and r["what"] == what]
            means[f"{mode} {what}"] = {
                "over_torch": geometric_mean(r["over_torch"] for r in rows),
                "best_over_torch": geometric_mean(r["best_over_torch"] for r in rows),
                "bf16_over_torch": geometric_mean(r["bf16_over_torch"] for r in rows if r["bf16_over_torch"]),
                "least_over_torch": min(r["over_torch"] for r in rows),
            }
    for name, m in means.items():
        print(
            f"{name:20} geometric mean over torch {m['over_torch']:.2f} (best of each {m['best_over_torch']:.2f}), "
            f"least {m['least_over_torch']:.2f}; bf16 over torch fp32 {m['bf16_over_torch']:.2f}",
            file=out,
        )
    print(f"median noise {100 * statistics.median(r['noise'] for r in results):.1f}%", file=out)
    if args.json:
        print(json.dumps({"machine": machine(), "results": results, "means": means}))


if __name__ == "__main__":
    main()
