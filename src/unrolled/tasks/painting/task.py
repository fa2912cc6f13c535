"""Painting as the training loop sees it, and as a trained painter is used."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unrolled import checkpoint
from unrolled.data.images import find_images
from unrolled.data.sources import Named, names
from unrolled.errors import DataError, ExportError
from unrolled.strokes import Painting
from unrolled.task import Carry, Metric, Preview, Processes, Step
from unrolled.tasks.painting import data, generate
from unrolled.tasks.painting.config import Config
from unrolled.tasks.painting.data import Pictures
from unrolled.tasks.painting.loss import training_loss
from unrolled.tasks.painting.model import Painter
from unrolled.tasks.painting.optimise import optimise
from unrolled.tasks.painting.pictures import Picture, error, pixels, write, write_film

SHIPPED = Path(__file__).parent / "weights"
"""The run folder of the painter that comes with the package."""
STEPS = 300
"""Of gradient descent, in `Run.optimise`."""
GALLERY_SIZE, FILM_SIZE, FRAMES = 512, 256, 30
"""Of a gallery: pixels of the longer side of a painting and of its animation, and how many pictures that has."""
BUDGETS = (50, 200, 1000)
"""Of strokes, at which a run is evaluated."""


class Task:
    """A painter bound to its run folder, for `unrolled.training.train`."""

    name = "painting"
    unit = "pictures"
    loss_name = "share of the error that is left"
    selection = Metric("squared_error", "mean squared error")
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.pictures = Pictures(config, folder)
        self.summary = (
            f"{len(self.pictures.training):,} squares of pictures and generated ones to learn from, "
            f"{len(self.pictures.validation):,} held out"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other pictures, and no generated ones: for looking into its gradient.

        Raises:
            DataError: they cannot be read.
        """
        task = cls(config.model_copy(update={"generated": 0.0}), folder)
        task.pictures.training = np.stack([*data.squares(paths)])
        return task

    def build(self) -> nn.Module:
        return Painter(self.config.hidden_size, self.config.strokes)

    def batch(self, step: int) -> dict[str, Any]:
        return self.pictures.batch(step)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, self.config.levels, self.config.looks)  # type: ignore[arg-type]

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        device = next(model.parameters()).device
        batch = {name: one.to(device) for name, one in self.pictures.measured().items()}
        step = training_loss(model, batch, self.config.levels, self.config.looks)  # type: ignore[arg-type]
        return {"loss": float(step.loss), **step.report}

    def show(self, model: nn.Module, seed: int) -> str:
        model.eval()
        picture = self.pictures.batch(seed)["pictures"][0]
        painting = generate.paint(model, picture, strokes=200)  # type: ignore[arg-type]
        before = (picture - painting.ground[:, None, None]).square().mean()
        after = (picture - painting.render(picture.shape[1])).square().mean()
        return f"200 strokes leave {float(after / before):.0%} of a picture's variance"


class Run:
    """A painter from its run folder; by default the one that comes with the package.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path = SHIPPED) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.model: Painter = checkpoint.load_model(self.folder, lambda: Painter(self.config.hidden_size, self.config.strokes))
        self.model.eval()

    def paint(
        self,
        picture: Picture,
        strokes: int = 1000,
        *,
        style: generate.Style = "fine",
        told: Callable[[Painting], None] | None = None,
        refined: Callable[[int, int], None] | None = None,
    ) -> Painting:
        """Paint a picture.

        Args:
            picture: a file, an image of Pillow, an array (height, width) or (height, width, 3 or 4) of unsigned integers or of
                floats in 0 to 1, or a tensor (1, 3 or 4, height, width) of bytes or of floats in 0 to 1. A fourth channel is
                opacity, on white.
            strokes: the budget; fewer are used where no more of them help.
            style: fine, broad strokes, or flat ones without bristles.
            told: called now and then with the strokes that were laid since, and what they were laid on.
            refined: called with how many of the last steps, which move all strokes a little, are done, and of how many.

        Raises:
            DataError: the file is no image.
            ConfigError: no strokes, more than a million, or an array of another form.
        """
        return generate.paint(self.model, pixels(picture), strokes, style=style, told=told, refined=refined)

    def optimise(
        self, painting: Painting, picture: Picture, *, steps: int | None = None, told: Callable[[int, int], None] | None = None
    ) -> Painting:
        """The same strokes, moved by gradient descent so that they come closer to the picture.

        Of more than 10,000 the last ones are.

        Args:
            steps: of descent; by default `STEPS`.
            told: called with how many steps are done, and of how many.

        Raises:
            DataError: the file is no image.
            ConfigError: an array of another form.
        """
        return optimise(painting, pixels(picture), steps=steps or STEPS, told=told)

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
        """`mean_squared_error_N` after N strokes for each of `BUDGETS`, at 128 pixels, averaged over the
        `pictures`, and how many these are.

        Raises:
            DataError: pictures that cannot be read.
        """
        found = find_images(names(paths))
        totals = dict.fromkeys(BUDGETS, 0.0)
        for number, path in enumerate(found, 1):
            picture = pixels(path)
            for budget in BUDGETS:
                totals[budget] += error(generate.paint(self.model, picture, budget), picture)
            if report:
                report("pictures", number, len(found))
        means = {f"mean_squared_error_{budget}": total / len(found) for budget, total in totals.items()}
        return {**means, "pictures": len(found)}

    def gallery(self, folder: Path, *photos: Named) -> list[Path]:
        """Paint each photo, and write the painting as PNG and how it grows as an animation; return the paths.

        Raises:
            DataError: no photo is named, or one cannot be read.
        """
        if not photos:
            raise DataError("expected photos to paint, got none: a painter keeps no pictures of those it learned from.")
        paths: list[Path] = []
        for number, file in enumerate(find_images(names(photos)), 1):
            painting = self.paint(file)
            folder.mkdir(parents=True, exist_ok=True)
            both = [folder / f"{number:05}.png", folder / f"{number:05}.gif"]
            write(both[0], painting, GALLERY_SIZE)
            write_film(both[1], painting, FILM_SIZE, FRAMES)
            paths += both
        return paths

    def preview(self) -> Preview:
        command = f"unrolled paint YOUR_PHOTO.jpg --run {shlex.quote(str(self.folder))}"
        return Preview("what it does", "It paints what you give it, as the built-in painter does without --run.", (command,))

    def export(self, path: str | Path) -> Path:
        """Not available for painting.

        Raises:
            ExportError: always; it says why.
        """
        raise ExportError(f"{self.folder}: a painter cannot be exported: its looks and its renderer are not one graph.")
