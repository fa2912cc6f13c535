"""docs/performance.md's table and chart: `python -m benchmarks.layers --json > layers.json`, then
`python -m benchmarks.report layers.json`.

What a person wrote on the page stays; what lies between the two marks is replaced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table(report: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    noise = sorted(r["noise"] for r in report["results"])[len(report["results"]) // 2]
    lines = [
        f"Machine: {facts}. Two timings of the same thing differ by {100 * noise:.1f}% (median over the table).",
        "",
        "| | geometric mean, torch.nn / ours | least | ours in bf16, torch.nn in fp32 / ours |",
        "|---|---|---|---|",
    ]
    for name, m in report["means"].items():
        lines.append(f"| {name} | {m['over_torch']:.2f} | {m['least_over_torch']:.2f} | {m['bf16_over_torch']:.2f} |")
    lines += ["", "![Ratios by shape](performance.png)", ""]
    lines += [
        "| cell | T, B, I, H | threads | pass | ours, ms | torch, ms | torch / ours | of peak | bf16, ms | its bf16, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in report["results"]:
        s = r["seconds"]
        bf16 = f"{1e3 * s['ours bf16']:.2f}" if "ours bf16" in s else "-"
        lines.append(
            f"| {r['mode']} | {r['T']}, {r['B']}, {r['I']}, {r['H']} | {r['threads']} | {r['what']} | {1e3 * s['ours']:.2f} | "
            f"{1e3 * s['torch']:.2f} | {r['over_torch']:.2f} | {r['percent_of_peak']:.0f}% | {bf16} | "
            f"{1e3 * s['torch bf16']:.2f} |"
        )
    return "\n".join(lines)


def chart(report: dict[str, Any]) -> None:
    modes = list(dict.fromkeys(r["mode"] for r in report["results"]))
    figure = Figure(figsize=(9, 3.2 * len(modes)), layout="constrained")
    for mode, axes in zip(modes, figure.subplots(len(modes), 1, squeeze=False)[:, 0], strict=True):
        rows = [r for r in report["results"] if r["mode"] == mode]
        shapes = list(dict.fromkeys((r["T"], r["B"], r["I"], r["H"]) for r in rows))
        kinds = list(dict.fromkeys((r["what"], r["threads"]) for r in rows))
        for k, (what, threads) in enumerate(kinds):
            ratios = {
                (r["T"], r["B"], r["I"], r["H"]): r["over_torch"] for r in rows if (r["what"], r["threads"]) == (what, threads)
            }
            places = [n + (k - (len(kinds) - 1) / 2) * 0.8 / len(kinds) for n in range(len(shapes))]
            axes.bar(places, [ratios[shape] for shape in shapes], 0.8 / len(kinds), label=f"{what}, {threads} thread(s)")
        axes.axhline(1, color="black", lw=1)
        axes.set_xticks(range(len(shapes)), [",".join(map(str, shape)) for shape in shapes], fontsize=7)
        axes.set_yscale("log", base=2)
        axes.set_ylabel("torch.nn time / ours")
        axes.set_title(f"{mode} (above 1: ours is faster)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:g}")
    figure.axes[0].legend(frameon=False, fontsize=8, ncols=4)
    figure.savefig(DOCS / "performance.png", dpi=100)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.report layers.json")
    report = json.loads(Path(sys.argv[1]).read_text())
    page = DOCS / "performance.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}")
    chart(report)
    print(f"wrote {page} and {DOCS / 'performance.png'}")


if __name__ == "__main__":
    main()
