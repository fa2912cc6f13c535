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
    "fetch ahead in packing": Trick("transpose.hpp", "__builtin_prefetch(from + lane * from_step + k + kAhead);", ""),
    "gates past the caches": Trick("forward.hpp", "kStreamedBytes = 4 << 20", "kStreamedBytes = index(1) << 62"),
    "x in the step's tile": Trick("forward.hpp", "kFusedBytesPerRow = 800 * 1024", "kFusedBytesPerRow = -1"),
    "expect": Trick("backward.hpp", "kExpectedBytes = 64 << 10", "kExpectedBytes = -1"),
    "fetch dx": Trick("gemm.hpp", "__builtin_prefetch(c[first + r] + column + v * Simd::N, 1);", ";"),
    "fetch dW tile": Trick(
        "gemm.hpp",
        "for (int i = 0; i < R * NV; ++i) __builtin_prefetch(c + i * Simd::N, 1);",
        "for (int i = 0; i < R; ++i) (void)i;",
    ),
    "fetch x": Trick("forward.hpp", "expect_x<R>(rows_at, first, blk);", ""),
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


def build(folder: Path, trick: Trick | None) -> ctypes.CDLL:
    """The library of the sources as they are, or without a trick, loaded. `folder` keeps what the next build can use."""
    sources = folder / "sources"
    shutil.copytree(ROOT / "csrc", sources / "csrc", copy_function=copy_if_changed, dirs_exist_ok=True)
    copy_if_changed(ROOT / "CMakeLists.txt", sources / "CMakeLists.txt")
    if trick:
        path = sources / "csrc" / trick.file
        text = path.read_text()
        if text.count(trick.text) != 1:
            sys.exit(
                f"{trick.file}: expected {trick.text!r} once, got it {text.count(trick.text)} times. Bring TRICKS up to date."
            )
        path.write_text(text.replace(trick.text, trick.instead))
    for command in (["-S", sources, "-B", folder / "built", f"-DUNROLLED_ISAS={library.isa()}"], ["--build", folder / "built"]):
        subprocess.run(["cmake", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    _, name = tempfile.mkstemp(suffix=".so", dir=folder)  # each under a name of its own: the loader knows files by their names
    shutil.copyfile(folder / "built" / "_unrolled_kernels.so", name)
    return library.load(Path(name))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tricks", nargs="+", default=list(TRICKS), choices=list(TRICKS))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    args = parser.parse_args()
    if not library.available() or not shutil.which("cmake"):
        sys.exit(f"nothing to measure: {library.why_not() or 'cmake was not found; pip install cmake'}")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    names = [f"{mode} {','.join(map(str, shape))} x{threads} {what}" for mode, shape, threads, what in WORKLOADS]
    for number, name in enumerate(names):
        print(f"  ({number}) {name}")
    print(f"{'without / with':24}" + "".join(f"{f'({number})':>7}" for number in range(len(names))), flush=True)
    unrolled.LSTM(1, 1)(torch.zeros(1, 1, 1))[0].sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        whole = build(Path(folder), None)
        others = {"nothing (noise)": build(Path(folder), None)} | {
            name: build(Path(folder), TRICKS[name]) for name in args.tricks
        }
    for name, other in others.items():
        ratios = []
        for mode, shape, threads, what in WORKLOADS:
            torch.set_num_threads(threads)
            calls = {"ours": call_on(whole, mode, shape, what), "without": call_on(other, mode, shape, what)}
            for call in calls.values():
                call()
            times = take_turns(calls, {"ours": 0.0}, args.seconds, least=3)
            ratios.append(statistics.median(times["without"]) / statistics.median(times["ours"]))
        print(f"{name:24}" + "".join(f"{ratio:7.3f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
