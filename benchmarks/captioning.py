"""Captioning, side by side.

    python -m benchmarks.captioning table CAPTIONS [--seconds 60] [--train-list FILE --validation-list FILE]
    python -m benchmarks.captioning speed RUN FOLDER [--beam 3 --consensus 0]

`table` trains rnn, lstm and gru with each of the three ways the photo enters, each for the same seconds, one layer, the same
widths, greedy captions, and prints BLEU-4 and CIDEr as a table in Markdown. `speed` says how many photos of a folder are
captioned in a second, by beam search, and what share of the time each part takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from unrolled import tasks
from unrolled.data.images import find_images, read_image
from unrolled.tasks.captioning.generate import generate
from unrolled.tasks.captioning.task import PHOTOS_AT_ONCE, Run

CELLS = ("rnn", "lstm", "gru")
WAYS = ("initial", "every-step", "attention")


def table(captions: str, seconds: float, lists: dict[str, str | None]) -> None:
    print(
        f"{seconds:.0f} seconds of training each, {torch.get_num_threads()} threads; BLEU-4 / CIDEr of greedy captions (steps)"
    )
    print(f"\n| | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for cell in CELLS:
        row = []
        for image in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                outcome = tasks.train(
                    "captioning",
                    captions,
                    run=Path(folder) / "run",
                    cell=cell,
                    image=image,
                    num_layers=1,
                    max_seconds=seconds,
                    max_steps=10**6,
                    warmup_steps=20,
                    longest=16,
                    evaluate_every=10**6,
                    save_every=10**6,
                    sample_every=0,
                    precision="bf16",
                    **{name: value for name, value in lists.items() if value},
                )
            row.append(f"{100 * outcome.metrics['bleu_4']:.1f} / {outcome.metrics['cider']:.3f} ({outcome.counters.step})")
        print(f"| {cell} | {' | '.join(row)} |", flush=True)


def speed(folder: str, photos: str, beam: int, consensus: int) -> None:
    run = Run(folder)
    settings = run.decoding(beam=beam, consensus=consensus)
    images = find_images([photos])
    spent = {"reading": 0.0, "CNN": 0.0, "decoder": 0.0}
    with torch.inference_mode():
        for begin in range(0, len(images), PHOTOS_AT_ONCE):
            marks = [time.perf_counter()]
            pixels = torch.stack([run.encoder.pixels(read_image(path)) for path in images[begin : begin + PHOTOS_AT_ONCE]])
            marks.append(time.perf_counter())
            features = run.encoder(pixels)
            marks.append(time.perf_counter())
            generate(run.model, run.tokenizer, run.model.encode(features), **settings)
            marks.append(time.perf_counter())
            for name, (start, end) in zip(spent, pairwise(marks), strict=True):
                spent[name] += end - start
    total = sum(spent.values())
    shares = ", ".join(f"{name} {100 * seconds / total:.0f}%" for name, seconds in spent.items())
    rate = f"beam {beam}, consensus {consensus}: {len(images):,} photos in {total:.1f} s, {len(images) / total:.1f} a second"
    print(f"{rate}, {torch.get_num_threads()} threads: {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("table")
    one.add_argument("captions")
    one.add_argument("--seconds", type=float, default=60)
    one.add_argument("--train-list")
    one.add_argument("--validation-list")
    other = commands.add_parser("speed")
    other.add_argument("run")
    other.add_argument("folder")
    other.add_argument("--beam", type=int, default=3)
    other.add_argument("--consensus", type=int, default=0)
    given = parser.parse_args()
    if given.command == "table":
        table(given.captions, given.seconds, {"train_list": given.train_list, "validation_list": given.validation_list})
    else:
        speed(given.run, given.folder, given.beam, given.consensus)


if __name__ == "__main__":
    main()
