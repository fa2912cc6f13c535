"""The table of layers in docs/performance.md, and its chart: `python -m benchmarks.layers --json > layers.json`, then
`python -m benchmarks.report layers.json`.

What a person wrote on the page stays; what lies between the two marks is replaced.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from unrolled.inspection.speed import geometric_mean

COLOURS = {"torch.nn": "tab:orange", "JAX": "tab:blue", "onnxruntime": "tab:green", "Keras": "tab:red"}
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


NAMES = {f"RNN_TANH {what}": f"RNN {what}" for what in ("inference", "training")}


def means(report: dict[str, Any], peers: list[str]) -> Iterator[str]:
    """The headline: geometric means over shapes and threads."""
    yield f"| | torch.nn | least | bf16, beside torch.nn in fp32 | {' | '.join(peers)} |".replace(" |  |", " |")
    yield "|" + "---|" * (4 + len(peers))
    for name, m in report["means"].items():
        row = [NAMES.get(name, name), *(f"{m[key]:.2f}" for key in ("over_torch", "least_over_torch", "bf16_over_torch"))]
        row += [f"{m['others'][peer]['over_ours']:.2f}" if m["others"].get(peer) else "-" for peer in peers]
        yield "| " + " | ".join(row) + " |"


def by_shape(results: list[dict[str, Any]]) -> Iterator[str]:
    """torch.nn / ours for each shape, with the most threads that were measured."""
    threads = max(r["threads"] for r in results)
    kinds = list(dict.fromkeys((r["mode"], r["what"]) for r in results))
    yield f"torch.nn's time / ours by shape, {threads} threads:"
    yield ""
    yield "| T, B, I, H | " + " | ".join(NAMES.get(f"{mode} {what}", f"{mode} {what}") for mode, what in kinds) + " |"
    yield "|" + "---|" * (1 + len(kinds))
    for shape in dict.fromkeys((r["T"], r["B"], r["I"], r["H"]) for r in results):
        found = {
            (r["mode"], r["what"]): r["over_torch"]
            for r in results
            if r["threads"] == threads and (r["T"], r["B"], r["I"], r["H"]) == shape
        }
        row = [f"{found[kind]:.2f}" if kind in found else "-" for kind in kinds]
        yield f"| {', '.join(map(str, shape))} | {' | '.join(row)} |"


def slower(results: list[dict[str, Any]]) -> str:
    """Where a peer is the faster one, in words."""
    found: dict[str, list[str]] = {}
    for r in results:
        for peer, ratio in {"torch.nn": r["over_torch"], **r["others_over_ours"]}.items():
            if ratio < 1:
                name = f"{r['mode']} {r['what']}"
                where = (
                    f"{NAMES.get(name, name)} of {r['T']}, {r['B']}, {r['I']}, {r['H']}, threads {r['threads']} ({ratio:.2f})"
                )
                found.setdefault(peer, []).append(where)
    each = [f"{peer}: {'; '.join(places)}." for peer, places in found.items()]
    nowhere = "" if "torch.nn" in found else "torch.nn is faster at none of these shapes. "
    return nowhere + (f"Where a peer is faster: {' '.join(each)}" if each else "No peer is faster at any of them.")


def table(report: dict[str, Any]) -> str:
    results = report["results"]
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    noise = sorted(r["noise"] for r in results)[len(results) // 2]
    peers = list(dict.fromkeys(name for r in results for name in r["others_over_ours"]))
    caption = f"*{facts}. Two timings of the same thing differ by {100 * noise:.1f}% (median).*"
    lines = [*means(report, peers), "", *by_shape(results), "", caption, "", slower(results), ""]
    return "\n".join([*lines, "![Ratios by shape](performance.png)"])


def chart(report: dict[str, Any]) -> None:
    """A panel for each cell and pass; a bar for each peer, the geometric mean over the numbers of threads."""
    rows, whats = ([*dict.fromkeys(r[key] for r in report["results"])] for key in ("mode", "what"))
    figure = Figure(figsize=(7 * len(whats), 3.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(whats), squeeze=False, sharey="row")
    for (mode, what), axes in zip(itertools.product(rows, whats), grid.flat, strict=True):
        results = [r for r in report["results"] if (r["mode"], r["what"]) == (mode, what)]
        shapes = list(dict.fromkeys((r["T"], r["B"], r["I"], r["H"]) for r in results))
        ratios: dict[str, dict[Any, list[float]]] = {}
        for r in results:
            for peer, ratio in {"torch.nn": r["over_torch"], **r["others_over_ours"]}.items():
                ratios.setdefault(peer, {}).setdefault((r["T"], r["B"], r["I"], r["H"]), []).append(ratio)
        width = 0.8 / len(ratios)
        for k, (peer, by_shape) in enumerate(ratios.items()):
            places = [n + (k - (len(ratios) - 1) / 2) * width for n, shape in enumerate(shapes) if shape in by_shape]
            # From 1 up or down: a bar below the line is a shape where the peer is faster.
            heights = [geometric_mean(by_shape[shape]) - 1 for shape in shapes if shape in by_shape]
            axes.bar(places, heights, width, bottom=1, label=peer, color=COLOURS[peer])
        axes.axhline(1, color="black", lw=1)
        axes.set_xticks(range(len(shapes)), ["\n".join((f"{t},{b}", f"{i},{h}")) for t, b, i, h in shapes], fontsize=8)
        axes.set_yscale("log", base=2)
        axes.set_ylabel("peer's time / ours")
        axes.set_title(f"{mode}, {what} (above 1: ours is faster)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside upper center")
    figure.supxlabel("T,B over I,H", fontsize=9)
    figure.savefig(DOCS / "performance.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="what `python -m benchmarks.layers --json` printed")
    report = json.loads(parser.parse_args().measured.read_text())
    page = DOCS / "performance.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}")
    chart(report)
    print(f"wrote {page} and {DOCS / 'performance.png'}")


if __name__ == "__main__":
    main()
