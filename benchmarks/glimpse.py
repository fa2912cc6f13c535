"""How many glimpses cost what, and what looking is worth: `python -m benchmarks.glimpse DATA --unseen OTHER --recipe FILE`.

Trains a network for each number of glimpses, once where it looks where it wants to and once where places are random, all with
the settings of the recipe; with `--run RUN RUN` asks trained ones for each number instead. For each it prints the error on
OTHER, along as many paths as the recipe says, and what an image costs: multiply-adds, how many numbers it was shown beside how
many pixels the image has, and milliseconds of one image alone and of each of 64.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import unrolled
from unrolled.config import read_recipe
from unrolled.inspection.speed import machine
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.task import Run


def multiply_adds(model: nn.Module, glimpses: int) -> int:
    """Of the products for one image; the weights that are used once a glimpse, each."""
    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    return glimpses * weights


def milliseconds(model: nn.Module, side: tuple[int, int, int], glimpses: int, count: int, rounds: int = 7) -> float:
    """The least of several passes over `count` images, for one image."""
    images, best = torch.rand(count, *side), float("inf")
    with torch.inference_mode():
        for _ in range(rounds):
            started = time.perf_counter()
            model(images, glimpses=glimpses)
            best = min(best, time.perf_counter() - started)
    return 1e3 * best / count


def main() -> None:
    parser = argparse.ArgumentParser(description="Error and cost by the number of glimpses, with the random control beside it.")
    parser.add_argument("data", type=Path, nargs="?", help="images to learn from")
    parser.add_argument("--unseen", type=Path, required=True, help="images to measure on")
    parser.add_argument("--recipe", type=Path, help="settings")
    parser.add_argument("--run", type=Path, nargs="+", help="trained networks to ask for each number, instead of training some")
    parser.add_argument("--glimpses", type=int, nargs="+", default=[1, 2, 4, 6, 8], help="numbers of glimpses (1 2 4 6 8)")
    parser.add_argument("--max-steps", type=int, help="steps of each training (the recipe's)")
    parser.add_argument("--attention", nargs="+", default=["hard", "random"], choices=["hard", "soft", "random"])
    parser.add_argument("--runs", type=Path, help="folder in which the runs are kept (none)")
    parser.add_argument("--threads", type=int, default=1, help="threads (1)")
    asked = parser.parse_args()
    if not asked.run and not (asked.data and asked.recipe):
        parser.error("expected DATA and --recipe to train with, or --run with trained networks")
    torch.set_num_threads(asked.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()), f", {asked.threads} threads")
    with tempfile.TemporaryDirectory() as temporary:
        for glimpses in asked.glimpses:
            if asked.run:
                runs = [unrolled.load(run, glimpses=glimpses) for run in asked.run]
            else:
                runs = [trained(asked, attention, glimpses, asked.runs or Path(temporary)) for attention in asked.attention]
            if glimpses == asked.glimpses[0]:
                errors = "".join(f"{f'{run.config.attention} error':>14}" for run in runs)
                print(f"{'glimpses':>8}{errors}{'multiply-adds':>15}{'seen/image':>12}{'ms, alone':>11}{'of 64':>8}")
            errors = "".join(f"{1 - run.evaluate(asked.unseen)['accuracy']:14.2%}" for run in runs)
            facts = runs[0].facts
            shape = (facts.channels, facts.height, facts.width)
            print(f"{glimpses:8}{errors}{cost(runs[0].model, runs[0].config, shape)}", flush=True)


def trained(asked: argparse.Namespace, attention: str, glimpses: int, folder: Path) -> Run:
    """A network for this number of glimpses."""
    recipe = read_recipe(asked.recipe)
    settings = {**recipe, **({"max_steps": asked.max_steps} if asked.max_steps else {})}
    if attention == "random":
        settings["samples"] = max(1, recipe.get("samples", 1))  # it has no policy to take the means of
    run = folder / f"{attention}-{glimpses}"
    unrolled.train("glimpse", asked.data, run=run, **{**settings, "glimpses": glimpses, "attention": attention})
    return unrolled.load(run)


def cost(model: nn.Module, config: Config, shape: tuple[int, int, int]) -> str:
    """The columns after the errors."""
    side = (shape[0], config.canvas, config.canvas) if config.canvas else shape
    numbers = config.glimpses * config.scales * config.glimpse_size**2 / (side[1] * side[2])
    times = [milliseconds(model, side, config.glimpses, count) for count in (1, 64)]
    return f"{multiply_adds(model, config.glimpses):15,}{numbers:12.2f}{times[0]:11.2f}{times[1]:8.3f}"


if __name__ == "__main__":
    main()
