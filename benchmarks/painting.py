"""What strokes make of photos: `python -m benchmarks.painting FOLDER` for the painter, greedy search and direct optimisation.

For each budget of strokes: mean squared error (x 1000) and SSIM at 128 pixels, means over the photos, and seconds of
processor time for one.

- painter: `unrolled paint`'s, the one that is built in or --run.
- greedy: for each stroke ten random candidates, smaller and smaller, each in the colour that is best for it; the best of them
  is laid if it helps.
- optimised: the painter's strokes after --steps steps of Adam on all their numbers, at the pixels that they are measured on.

With --speed instead: seconds from the command's start to the PNG, for each photo at 512 pixels and 1,000 strokes, and for the
first of them at 4,096 pixels, with the most memory that it held; and strokes a second of the renderer at 512 pixels, beside one
that lays every stroke over every pixel.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d

import unrolled
from unrolled.data.images import find_images
from unrolled.inspection.speed import machine
from unrolled.strokes import Painting, Strokes, paint_at, render
from unrolled.tasks.painting.model import best_colour
from unrolled.tasks.painting.optimise import optimise
from unrolled.tasks.painting.pictures import MEASURED, pixels
from unrolled.tasks.painting.task import SHIPPED, Run
from unrolled.tasks.painting.windows import resized

CANDIDATES = 10


def ssim(one: Tensor, other: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of pictures (3, height, width) in 0 to 1: Gaussian windows of 11, sigma 1.5."""
    gauss = torch.exp(-0.5 * ((torch.arange(11.0) - 5) / 1.5) ** 2)
    window = (gauss[:, None] * gauss / gauss.sum() ** 2)[None, None]

    def mean(values: Tensor) -> Tensor:
        return conv2d(values[:, None], window)

    mx, my = mean(one), mean(other)
    vx, vy, covariance = mean(one * one) - mx * mx, mean(other * other) - my * my, mean(one * other) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


@torch.inference_mode()
def greedy(target: Tensor, budget: int, seed: int = 0) -> Tensor:
    """The canvas after `budget` tries on a picture (3, height, width), which is what it is measured on, too."""
    height, width = target.shape[1:]
    longer, generator = max(height, width), torch.Generator().manual_seed(seed)
    y, x = ((torch.arange(side) + 0.5).expand(CANDIDATES, side) / longer for side in (height, width))
    canvas = target.mean((1, 2), keepdim=True).expand_as(target)
    error = float((canvas - target).square().mean())

    def random(*shape: int) -> Tensor:
        return torch.rand(CANDIDATES, *shape, generator=generator)

    for number in range(budget):
        size = 0.35 * (1 - number / budget) ** 2 + 0.03
        middle = random(2) * torch.tensor([width / longer, height / longer])
        along, bend = ((random(2) - 0.5) * size * share for share in (2, 1))
        points = torch.stack([middle - along, middle + bend, middle + along], 1)
        none = torch.zeros(CANDIDATES)
        strokes = Strokes(points, size / 3 * (0.2 + 0.8 * random(2)), none, 0.5 + 0.5 * random(), none, none)
        alpha = paint_at(strokes, x, y, 1 / longer).coverage[:, None]
        colours = best_colour(alpha, target[None], canvas[None])[..., None, None]
        after = canvas + alpha * (colours - canvas)
        errors = (after - target).square().mean((1, 2, 3))
        if float(errors.min()) < error:
            error, canvas = float(errors.min()), after[errors.argmin()]
    return canvas


def plain(painting: Painting) -> Tensor:
    """At 128 pixels, without bristles."""
    strokes = painting.strokes
    return painting._replace(strokes=strokes._replace(bristles=torch.zeros_like(strokes.bristles))).render(MEASURED)


P = ParamSpec("P")
R = TypeVar("R")


def timed(make: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    """What it makes, and seconds of processor time."""
    started = time.process_time()
    return make(*args, **kwargs), time.process_time() - started


def errors(painter: Run, photos: list[Path], budgets: list[int], steps: int) -> None:
    painter.paint(pixels(photos[0]), 20)  # what is done once at the first call counts for none
    print("| strokes | painter: error | SSIM | s | greedy: error | SSIM | s | optimised: error | SSIM | s |", flush=True)
    print("|" + 10 * "---|")
    for budget in budgets:
        rows = []
        for photo in photos:
            picture = pixels(photo)
            height, width = (max(1, round(side * MEASURED / max(picture.shape[1:]))) for side in picture.shape[1:])
            target = resized(picture[None], height, width)[0]
            painting, seconds = timed(painter.paint, picture, budget)
            searched, searching = timed(greedy, target, budget)
            refined, refining = timed(optimise, painting, picture, steps=steps, longer=MEASURED)
            row = []
            for canvas, took in ((plain(painting), seconds), (searched, searching), (plain(refined), seconds + refining)):
                row += [1000 * float((canvas - target).square().mean()), ssim(canvas, target), took]
            rows.append(row)
        means = [statistics.mean(column) for column in zip(*rows, strict=True)]
        print(f"| {budget:,} | " + " | ".join(f"{one:.3g}" for one in means) + " |", flush=True)


def speed(photos: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for photo in photos:
            small = Path(folder) / f"{photo.stem}.png"
            picture = Image.open(photo).convert("RGB")
            picture.thumbnail((512, 512))
            picture.save(small)
            for size in (512, 4096) if photo == photos[0] else (512,):
                command = [sys.executable, "-m", "unrolled", "paint", str(small), "--quiet", "--size", str(size)]
                before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                took, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
                # ru_maxrss is in kilobytes, as on Linux
                processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                print(
                    f"{photo.stem}, {size} pixels: {took:.1f} s from the command's start to the PNG, {processor:.1f} s of "
                    f"processor time, {after.ru_maxrss / 2**20:.1f} GB at most so far",
                    flush=True,
                )
    painting = unrolled.load(SHIPPED).paint(photos[0], 4000)
    height, width = painting.size(512)
    canvas = painting.ground[:, None, None].expand(3, height, width)

    @torch.inference_mode()
    def every_pixel() -> Tensor:
        shown = canvas
        y, x = ((torch.arange(side) + 0.5)[None] / 512 for side in (height, width))
        for number in range(100):
            coverage, light = paint_at(painting.strokes[number : number + 1], x, y, 1 / 512)
            shown = shown + coverage * (
                painting.strokes.colours[number, :, None, None] + (0 if light is None else light) - shown
            )
        return shown

    count = len(painting.strokes.opacity)
    _, ours = timed(lambda: render(painting.strokes, height, width, canvas))
    bare = painting.strokes._replace(bristles=torch.zeros(count))
    _, without = timed(lambda: render(bare, height, width, canvas))
    _, straightforward = timed(every_pixel)
    print(
        f"renderer at {width} x {height}: {count / ours:,.0f} strokes a second, {count / without:,.0f} without bristles; "
        f"every stroke over every pixel: {100 / straightforward:,.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    parser.add_argument("--run", type=Path, default=SHIPPED, help="another painter than the one that is built in")
    parser.add_argument("--strokes", type=int, nargs="+", default=[50, 200, 1000, 4000], help="budgets (50 200 1000 4000)")
    parser.add_argument("--steps", type=int, default=300, help="of direct optimisation (300)")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()), f", {asked.threads} threads")
    photos = find_images(asked.photos)
    if asked.speed:
        speed(photos)
    else:
        errors(unrolled.load(asked.run), photos, asked.strokes, asked.steps)


if __name__ == "__main__":
    main()
