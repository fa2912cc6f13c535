"""How long a person waits for the command line: `python -m benchmarks.startup`.

Medians of 15 starts each, interleaved; the bare interpreter and `import torch` stand beside for scale.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "unrolled --help": [sys.executable, "-m", "unrolled", "--help"],
    "unrolled train language-model --help": [sys.executable, "-m", "unrolled", "train", "language-model", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(15):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name:<40} {statistics.median(times):.3f} s")


if __name__ == "__main__":
    main()
