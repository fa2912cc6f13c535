"""What training in several processes costs: `python -m benchmarks.processes [TEXT]`.

The language model of recipes/tinyshakespeare.toml, the same batch of 32 streams a step: in one process with one thread and
with two, and shared by two processes of one thread. Then, on paper, what summing its gradients takes on 8 and 64 GPUs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from unrolled import checkpoint

STEPS, FIRST = 70, 20  # steps of a run, and after how many the clock is read first
SETTINGS = {
    "hidden_size": 512, "embedding_size": 128, "batch_size": 32, "k1": 64, "max_steps": STEPS,
    "evaluate_every": 1000, "save_every": 1000, "sample_every": 0,
}  # fmt: skip
LINKS = {8: ("NVLink 4", 450e9, 3e-6), 64: ("InfiniBand, 400 Gb/s a GPU", 50e9, 10e-6)}  # bytes/s one way, seconds a hop
PARAMETERS = {"this model": 0, "10 million": 10_000_000, "100 million": 100_000_000}


def train(text: str, folder: Path, processes: int, threads: int) -> tuple[float, int]:
    """Seconds per step, and the model's parameters."""
    flags = [part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    ours = ["unrolled", "train", "language-model", text, "--run", str(folder), "--quiet", *flags]
    launcher = ["torch.distributed.run", "--nproc_per_node", str(processes), "-m", "--"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", *launcher, *ours], env=environment, check=True)
    at = {line["step"]: line["seconds"] for line in checkpoint.read_metrics(folder) if line["part"] == "train"}
    weights, _ = checkpoint.read_tensors(folder / checkpoint.MODEL)
    return (at[STEPS] - at[FIRST]) / (STEPS - FIRST), sum(weight.numel() for weight in weights.values())


def on_paper(parameters: int, processes: int) -> float:
    """Seconds of a ring all-reduce of fp32 gradients: 2 (N - 1) / N of them pass each link, in 2 (N - 1) hops."""
    _, bandwidth, latency = LINKS[processes]
    return 2 * (processes - 1) / processes * 4 * parameters / bandwidth + 2 * (processes - 1) * latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default=str(Path(sysconfig.get_path("stdlib")) / "*.py"))
    text = parser.parse_args().text
    tokens = SETTINGS["batch_size"] * SETTINGS["k1"]
    parameters = 0
    print("| processes | threads each | ms a step | tokens/s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for processes, threads in ((1, 1), (1, 2), (2, 1)):
            seconds, parameters = train(text, Path(folder) / f"{processes}-{threads}", processes, threads)
            print(f"| {processes} | {threads} | {1000 * seconds:.1f} | {tokens / seconds:,.0f} |", flush=True)
    print(f"\n{parameters:,} parameters, {4 * parameters / 1e6:.1f} MB of gradients a step\n")
    print("On paper, ms to sum the gradients:\n\n| parameters |", *(f"{n} GPUs, {LINKS[n][0]} |" for n in LINKS))
    print("|---|" + "---|" * len(LINKS))
    for name, count in PARAMETERS.items():
        print(f"| {name} |", *(f"{1000 * on_paper(count or parameters, n):.2f} |" for n in LINKS))


if __name__ == "__main__":
    main()
