"""What each trick of the kernels is worth: `python -m benchmarks.ablation`, `--tricks NAME ...` for some.

For each trick the library is built once more with the trick taken out, which is one replacement in a copy of `csrc/`. Both
libraries are loaded in this process and take turns on shapes that people use. A figure is the median of the times
without / with: 1.05 means that the trick saves 5%. About a minute a trick. Needs CMake and the compiler that built the package.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

import unrolled
from unrolled.inspection.speed import Call, inference, machine, take_turns, training
from unrolled.kernels import library

ROOT = Path(__file__).parents[1]


class Trick(NamedTuple):
    """One replacement that takes the trick out."""

    file: str
    text: str
    instead: str


TRICKS = {
    "own dW for each thread": Trick("backward.hpp", "kAloneBytes = 1 << 20", "kAloneBytes = -1"),
    "dW from rows in place": Trick(
        "backward.hpp", "return P == 1 && columns * index(sizeof(elem)) <= 1024;", "return columns < 0;"
    ),
    "fetch ahead in dW": Trick("gemm.hpp", "__builtin_prefetch(rows[k + kAhead] + column);", ""),
    "fetch ahead in backward": Trick("backward.hpp", "kExpectedBytes = 64 << 10", "kExpectedBytes = -1"),
    "fetch ahead of x": Trick("forward.hpp", "expect_x<R>(rows_at, first, blk);", ""),
    "fetch ahead in packing": Trick("transpose.hpp", "__builtin_prefetch(from + lane * from_step + k + kAhead);", ""),
    "x in the step's tile": Trick("forward.hpp", "kFusedBytesPerRow = 800 * 1024", "kFusedBytesPerRow = -1"),
    "kept packed weights": Trick("kept.cpp", "kMostBytes = size_t(128) << 20", "kMostBytes = 0"),
    "kept memory": Trick("memory.cpp", "kKept = size_t(512) << 20", "kKept = 0"),
    "large pages": Trick("memory.cpp", "advise(memory, bytes, MADV_HUGEPAGE);", "(void)memory, (void)bytes;"),
}

# mode, (T, B, I, H), threads, pass
WORKLOADS = [
    ("LSTM", (200, 128, 32, 32), 1, "training"),
    ("LSTM", (200, 128, 32, 32), 2, "training"),
    ("LSTM", (1000, 8, 64, 64), 1, "training"),
    ("LSTM", (100, 64, 128, 128), 1, "training"),
    ("LSTM", (100, 64, 128, 128), 2, "training"),
    ("LSTM", (35, 20, 650, 650), 1, "training"),
    ("LSTM", (128, 64, 512, 512), 1, "training"),
    ("GRU", (1000, 8, 64, 64), 1, "training"),
    ("RNN_TANH", (100, 64, 128, 128), 1, "training"),
    ("LSTM", (200, 128, 32, 32), 1, "inference"),
    ("LSTM", (200, 128, 32, 32), 2, "inference"),
    ("LSTM", (10, 1, 256, 256), 1, "inference"),
    ("LSTM", (100, 64, 128, 128), 1, "inference"),
    ("LSTM", (35, 20, 650, 650), 1, "inference"),
]


def build(folder: Path, trick: Trick | None, path: Path) -> Path:
    """The library of the sources as they are, or without a trick, at `path`. `folder` keeps what the next build can use."""
    sources = folder / "sources"
    shutil.copytree(ROOT / "csrc", sources / "csrc", copy_function=copy_if_changed, dirs_exist_ok=True)
    copy_if_changed(ROOT / "CMakeLists.txt", sources / "CMakeLists.txt")
    if trick:
        file = sources / "csrc" / trick.file
        text = file.read_text()
        if text.count(trick.text) != 1:
            sys.exit(
                f"{trick.file}: expected {trick.text!r} once, got it {text.count(trick.text)} times. Bring TRICKS up to date."
            )
        file.write_text(text.replace(trick.text, trick.instead))
    for command in (["-S", sources, "-B", folder / "built", f"-DUNROLLED_ISAS={library.isa()}"], ["--build", folder / "built"]):
        subprocess.run(["cmake", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(folder / "built" / "_unrolled_kernels.so", path)
    return path


def copy_if_changed(old: str | Path, new: str | Path) -> None:
    """So that only what differs from the last build is compiled."""
    if not Path(new).exists() or Path(new).read_bytes() != Path(old).read_bytes():
        shutil.copyfile(old, new)


@contextlib.contextmanager
def using(compiled: ctypes.CDLL) -> Iterator[None]:
    """The layers run on this library."""
    with mock.patch.object(library, "loaded", lambda: compiled):  # noqa: PT008  a Mock takes longer than a call
        yield


def call_on(compiled: ctypes.CDLL, mode: str, shape: tuple[int, int, int, int], what: str) -> Call:
    T, B, I, H = shape
    torch.manual_seed(0)
    layer, x, d_out = getattr(unrolled, mode.split("_")[0])(I, H), torch.randn(T, B, I), torch.randn(T, B, H)
    call = inference(layer, x) if what == "inference" else training(layer, x, d_out)

    def on_library() -> torch.Tensor:
        with using(compiled):
            return call()

    return on_library


def compare(whole: ctypes.CDLL, other: ctypes.CDLL, seconds: float) -> Iterator[float]:
    """The time without a trick / with it, of each workload."""
    for mode, shape, threads, what in WORKLOADS:
        torch.set_num_threads(threads)
        calls = {"ours": call_on(whole, mode, shape, what), "without": call_on(other, mode, shape, what)}
        for call in calls.values():
            call()
        times = take_turns(calls, {"ours": 0.0}, seconds, least=3)
        yield statistics.median(times["without"]) / statistics.median(times["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tricks", nargs="+", default=list(TRICKS), choices=list(TRICKS))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--libraries", nargs=2, type=Path, help=argparse.SUPPRESS)  # these two, in this process
    args = parser.parse_args()
    if not library.available() or not shutil.which("cmake"):
        sys.exit(f"nothing to measure: {library.why_not() or 'cmake was not found; pip install cmake'}")
    if args.libraries:
        print("".join(f"{ratio:7.3f}" for ratio in compare(*map(library.load, args.libraries), args.seconds)))
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for number, (mode, shape, threads, what) in enumerate(WORKLOADS):
        print(f"  ({number}) {mode} {','.join(map(str, shape))} x{threads} {what}")
    print(f"{'without / with':24}" + "".join(f"{f'({number})':>7}" for number in range(len(WORKLOADS))), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = build(folder, None, folder / "whole.so")
        pairs = {"nothing (noise)": Path(shutil.copyfile(whole, folder / "again.so"))}
        pairs |= {trick: build(folder, TRICKS[trick], folder / f"{n}.so") for n, trick in enumerate(args.tricks)}
        for trick, other in pairs.items():  # in processes of their own: what a library keeps is not the next one's to find
            command = [sys.executable, "-m", "benchmarks.ablation", "--seconds", str(args.seconds), "--libraries", whole, other]
            print(
                f"{trick:24}" + subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True
            )


if __name__ == "__main__":
    main()
