"""What this machine has for recurrent layers, and what is missing and costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import time
from typing import Any

import torch

import unrolled
from unrolled import kernels
from unrolled.kernels import library

OPTIONAL = {"onnx": "ONNX export", "onnxruntime": "running exported models"}


def describe() -> dict[str, Any]:
    """Versions, processor, kernels and optional packages; `advice` lists what could be better and what to do."""
    advice = []
    facts: dict[str, Any] = {
        "unrolled": unrolled.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {processor()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
    }
    if kernels.available():
        facts["kernels"] = f"built; {kernels.isa()} in use, of {', '.join(kernels.isas())}"
        multiplied = torch.bfloat16 in library.dtypes
        facts["bf16"] = "native products" if multiplied else "computed in fp32: no fast bf16 products here"
    else:
        facts["kernels"] = f"not available: {kernels.why_not()}"
        plain, with_resets = _cost_without_kernels()
        advice.append(
            "layers run torch's operators or, for `resets`, `states` and `gradient_norms`, a loop in Python: here the training "
            f"step of an LSTM (T 100, B 32, I = H = 128) takes {plain:.1f} times as long as torch.nn.LSTM's, "
            f"and {with_resets:.1f} times with resets. "
            "Install a C++17 compiler and reinstall: pip install --force-reinstall ."
        )
    for package, use in OPTIONAL.items():
        there = importlib.util.find_spec(package) is not None
        facts[package] = importlib.metadata.version(package) if there else f"not installed (needed for {use})"
    facts["advice"] = "; ".join(advice) or "nothing to fix"
    return facts


def _cost_without_kernels() -> tuple[float, float]:
    """How many times as long as torch.nn.LSTM ours takes for a training step, without and with resets."""
    theirs, ours = torch.nn.LSTM(128, 128), unrolled.LSTM(128, 128)
    x, resets = torch.randn(100, 32, 128), torch.zeros(100, 32, dtype=torch.bool)
    calls = [lambda: theirs(x), lambda: ours(x), lambda: ours(x, resets=resets)]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(4):
        for call, times in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()[0].sum().backward()
            times.append(time.perf_counter() - started)
    base, plain, with_resets = (statistics.median(times[1:]) for times in seconds)  # the first of each warms up
    return plain / base, with_resets / base


def processor() -> str:
    """The processor's name, with its family and model where the system tells: clouds call several of them the same."""
    facts: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    if "model name" not in facts:
        return platform.processor() or "unknown processor"
    if "cpu family" not in facts:
        return facts["model name"]
    return f"{facts['model name']} (family {facts['cpu family']}, model {facts.get('model', '?')})"
