"""docs/performance.md's table and chart: `python -m benchmarks.layers --json > layers.json`, then
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


# What was aimed at: mean over torch.nn, bf16 over torch's fp32, share of peak at H >= 128 and B >= 16.
AIMS = {
    "LSTM inference": (1.25, None, 95),
    "LSTM training": (1.4, 2.4, 90),
    "GRU inference": (2.2, None, 95),
    "GRU training": (2.5, 2.4, 90),
    "RNN_TANH inference": (2.2, None, None),
    "RNN_TANH training": (2.3, 2.4, None),
}


def against(value: float, aim: float | None, form: str) -> str:
    """A figure beside what it was to be; bold where it falls short."""
    text = form.format(value)
    if aim is None:
        return text
    return f"{text} ({form.format(aim)})" if value >= aim else f"**{text}** ({form.format(aim)})"


def summary(report: dict[str, Any], peers: list[str]) -> Iterator[str]:
    yield f"| | torch.nn / ours | least | bf16: torch.nn in fp32 / ours | of peak, H ≥ 128, B ≥ 16 |{'|'.join(peers)}|"
    yield "|" + "---|" * (5 + len(peers))
    for name, m in report["means"].items():
        mean, bf16, peak = AIMS.get(name, (None, None, None))
        row = [
            name,
            against(m["over_torch"], mean, "{:.2f}"),
            against(m["least_over_torch"], 0.97, "{:.2f}"),
            against(m["bf16_over_torch"], bf16, "{:.2f}"),
        ]
        if m["large_percent_of_peak"]:
            least, middle, most = m["large_percent_of_peak"]
            row.append(f"{against(least, peak, '{:.0f}%')} to {most:.0f}%, median {middle:.0f}%")
        else:
            row.append("-")
        for peer in peers:
            one = m["others"].get(peer)
            row.append(f"{one['over_ours']:.2f} (least {one['least']:.2f})" if one else "-")
        yield "| " + " | ".join(row) + " |"


def table(report: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    noise = sorted(r["noise"] for r in report["results"])[len(report["results"]) // 2]
    peers = list(dict.fromkeys(name for r in report["results"] for name in r["others_over_ours"]))
    lines = [
        f"Machine: {facts}. Two timings of the same thing differ by {100 * noise:.1f}% (median over the table).",
        "",
        "Geometric means over the table, the peer's time / ours; in brackets what was aimed at, bold where that is missed.",
        "",
        *summary(report, peers),
        "",
        "![Ratios by shape](performance.png)",
        "",
    ]
    others = "".join(f" {peer} / ours |" for peer in peers)
    lines += [
        "| cell | T, B, I, H | threads | pass | ours, ms | torch.nn, ms | torch.nn / ours | of peak | bf16, ms | its bf16, ms |"
        + others,
        "|" + "---|" * (10 + len(peers)),
    ]
    for r in report["results"]:
        s = r["seconds"]
        bf16 = f"{1e3 * s['ours bf16']:.2f}"
        ratios = [r["others_over_ours"].get(peer) for peer in peers]
        lines.append(
            f"| {r['mode']} | {r['T']}, {r['B']}, {r['I']}, {r['H']} | {r['threads']} | {r['what']} | {1e3 * s['ours']:.2f} | "
            f"{1e3 * s['torch']:.2f} | {r['over_torch']:.2f} | {r['percent_of_peak']:.0f}% | {bf16} | "
            f"{1e3 * s['torch bf16']:.2f} |" + "".join(f" {ratio:.2f} |" if ratio else " - |" for ratio in ratios)
        )
    return "\n".join(lines)


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
