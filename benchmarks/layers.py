"""The whole table of `unrolled bench` with other people's layers beside: `python -m benchmarks.layers`, `--json` for
`python -m benchmarks.report`.

About twelve minutes on two cores: every shape of the list, one thread and two, inference and training. Peers that are not
installed (`pip install '.[bench]'`) are left out with a line that says so. Each number of threads has a process of its own,
held to as many cores, because JAX takes all that it finds; in it everything takes turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.peers import PEERS, missing, versions
from unrolled.inspection.speed import HEADER, MODES, PASSES, QUICK_SHAPES, SHAPES, line, machine, means_of, measure, summary
from unrolled.kernels import library


def cells_of_the_table(args: argparse.Namespace, threads: int, peers: list[str]) -> Iterator[dict[str, Any]]:
    """Everything at one number of threads, in this process."""
    if hasattr(os, "sched_setaffinity"):  # before JAX is imported, which happens at its first use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    for mode in args.cells:
        for shape in args.shapes:
            for what in args.passes:
                yield measure(mode, shape, threads, what, args.seconds, least=3, others={name: PEERS[name] for name in peers})


def in_processes(argv: list[str], thread_counts: list[int]) -> Iterator[dict[str, Any]]:
    """The same, in a process for each number of threads."""
    for threads in thread_counts:
        command = [sys.executable, "-m", "benchmarks.layers", *argv, "--lines", str(threads)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode:
            sys.exit(process.returncode)


def shape_of(text: str) -> tuple[int, int, int, int]:
    """`3`, counted from 0 in the list, or any T,B,I,H."""
    sizes = tuple(map(int, text.split(",")))
    if len(sizes) == 1 and sizes[0] < len(SHAPES):
        return SHAPES[sizes[0]]
    if len(sizes) != 4:
        raise ValueError
    return sizes


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--shapes", nargs="+", type=shape_of, help="T,B,I,H, or which of the list, counted from 0")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="beside torch.nn; may be none")
    parser.add_argument("--seconds", type=float, help="time per cell of the table, 1.5 when left out")
    parser.add_argument("--quick", action="store_true", help="three shapes, half a second each")
    parser.add_argument("--json", action="store_true", help="print one object instead of the table")
    parser.add_argument("--lines", type=int, help=argparse.SUPPRESS)  # so many threads in this process, a JSON line a cell
    args = parser.parse_args(argv)
    if not library.available():
        sys.exit(f"nothing to measure: {library.why_not()}")
    args.shapes = args.shapes or (QUICK_SHAPES if args.quick else SHAPES)
    args.seconds = args.seconds or (0.5 if args.quick else 1.5)
    peers = [peer for peer in args.peers if not missing(peer)]
    if args.lines:
        for result in cells_of_the_table(args, args.lines, peers):
            print(json.dumps(result), flush=True)
        return
    out = sys.stderr if args.json else sys.stdout
    for peer in args.peers:
        if peer not in peers:
            print(missing(peer), file=out)
    facts = machine() | versions(peers)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), file=out)
    print(HEADER + "  others / ours" * bool(peers), file=out)
    results = []
    for result in in_processes(argv, args.threads):
        results.append(result)
        print(line(result), file=out, flush=True)
    for text in summary(results):
        print(text, file=out)
    if args.json:
        print(json.dumps({"machine": facts, "results": results, "means": means_of(results)}))


if __name__ == "__main__":
    main()
