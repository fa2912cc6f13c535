"""The whole table of `unrolled bench`: `python -m benchmarks.layers`, `--json` for `python -m benchmarks.report`.

About ten minutes on two cores: every shape of the list, one thread and two, inference and training.
"""

from __future__ import annotations

import argparse
import json
import sys

from unrolled.inspection.speed import HEADER, MODES, QUICK_SHAPES, SHAPES, line, machine, means_of, measure, summary
from unrolled.kernels import native


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
    for text in summary(results):
        print(text, file=out)
    if args.json:
        print(json.dumps({"machine": machine(), "results": results, "means": means_of(results)}))


if __name__ == "__main__":
    main()
