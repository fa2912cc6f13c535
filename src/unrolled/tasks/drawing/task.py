"""Drawing as the training loop sees it, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrolled import checkpoint, files
from unrolled.data.image_parts import FACTS, TRAINING, VALIDATION, Facts, Labelled, Part
from unrolled.data.sources import Named, names
from unrolled.errors import DataError, ExportError, RunError, nearest
from unrolled.inspection import animation, sheets
from unrolled.task import Carry, Metric, Preview, Processes, Step
from unrolled.tasks.drawing import data, generate, show
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.data import Batches
from unrolled.tasks.drawing.draw import Draw, Drawn
from unrolled.tasks.drawing.loss import measure, training_loss
from unrolled.tasks.drawing.model import build
from unrolled.tasks.drawing.pixels import brightness

SHOWN = 4
"""Images of a sample on the screen."""


class Task:
    """A drawing network bound to its run folder, for `unrolled.training.train`."""

    name = "drawing"
    unit = "images"
    loss_name = "nats per image"
    selection = Metric("loss", "nats per image")
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.facts = files.read_as(folder / FACTS, Facts)
        self.training, self.validation = (Part(folder / name, self.facts) for name in (TRAINING, VALIDATION))
        self.batches = Batches(config, self.training)
        channels, height, width = self.facts.shape
        self.summary = (
            f"{len(self.training):,} images of {height} x {width} pixels{' in colour' * (channels == 3)} and {config.levels} "
            f"levels to learn from, {len(self.validation):,} to measure on"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other images: for looking into its gradient.

        Raises:
            DataError: they cannot be read, are of another size, or have no class, which the model is told.
        """
        task = cls(config, folder)
        images, labels, _ = data.read(paths, config, _silent, task.facts)
        shown = images if config.resample else data.quantised(images, config.levels)
        task.batches = Batches(config, Labelled(shown, labels))
        return task

    def build(self) -> nn.Module:
        mean = np.asarray(self.training.images).mean(0) / (255 if self.config.resample else self.config.levels - 1)
        return build(self.config, self.facts, torch.from_numpy(mean).float())

    def batch(self, step: int) -> dict[str, Any]:
        return self.batches.batch(step)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch)

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        if not len(self.validation):
            return {}
        return measure(model, self.validation.images, self.validation.labels, processes=processes)

    def show(self, model: nn.Module, seed: int) -> str:
        model.eval()
        return show.text(generate.draw(model, SHOWN, seed, data.each_class(self.facts, SHOWN)))


class Run:
    """A trained drawing network from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.facts = files.read_as(self.folder / FACTS, Facts)
        self.model = checkpoint.load_model(self.folder, lambda: build(self.config, self.facts))
        self.model.eval()

    def draw(self, count: int = 64, *, seed: int = 0, label: str | None = None) -> Tensor:
        """New images, (count, channels, height, width), 0..1; the same for the same seed.

        Args:
            count: how many; the first ones do not depend on it.
            seed: of the random numbers.
            label: the class to draw, where the run was trained with `conditional`; by default all of them in turn.

        Raises:
            RunError: it has no such class, or none.
        """
        return generate.draw(self.model, count, seed, self._classes(count, label))

    def steps(self, count: int = 4, *, seed: int = 0, label: str | None = None) -> Drawn:
        """The same on the way: DRAW's canvas after each step and the windows that were written through; of a PixelRNN the image
        after each row.

        Raises:
            RunError: as `draw`.
        """
        if not isinstance(self.model, Draw):
            return generate.row_by_row(self.draw(count, seed=seed, label=label))
        return generate.steps(self.model, count, seed, self._classes(count, label))

    def reconstruct(self, *images: Named, seed: int = 0) -> tuple[Drawn, Tensor]:
        """Canvases and windows while DRAW reads images and draws them, and the images, (N, channels, height, width), 0..1.

        Raises:
            RunError: a PixelRNN, which has no canvas.
            DataError: an image that cannot be read or is of another size.
        """
        model = self._draw("reconstruct")
        return self._reconstructed(model, *self.read(*images), seed)

    def complete(self, *images: Named, seed: int = 0) -> Tensor:
        """Images with the lower half made anew from the upper, (N, channels, height, width), 0..1.

        Raises:
            RunError: the run is a DRAW.
            DataError: an image that cannot be read or is of another size.
        """
        self._require_pixels()
        return generate.complete(self.model, torch.from_numpy(self.read(*images)[0]).float(), seed)

    def read(self, *paths: Named) -> tuple[np.ndarray, np.ndarray]:
        """Images in any form that training takes: levels (N, channels, height, width), and numbers of their classes (N,).

        Raises:
            DataError: they cannot be read, are of another size, or have no class, which the model is told.
        """
        images, labels, _ = data.read(names(paths), self.config, _silent, self.facts)
        return data.quantised(images, self.config.levels), labels

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
        """`loss` and `bits_per_dimension`, and of DRAW more, as `loss.measure` has them; how many `images` there were, and of
        DRAW how many `samples` the importance-weighted estimate takes of each.
        """
        images, labels = self.read(*paths)
        samples = self.config.samples
        told = partial(report, "images") if report else None
        found = measure(self.model, images, labels, samples=samples, report=told)
        counted = {"samples": samples} if self.config.model == "draw" else {}
        return {**found, **counted, "images": len(images)}

    def draw_samples(self, path: str | Path, **settings: Any) -> int:
        """A sheet of `draw(**settings)` as PNG; return how many images."""
        self._require_room(path, settings.get("count", 64))
        images = self.draw(**settings)
        columns = self._columns if settings.get("label") is None else None
        sheets.write(path, show.sheet(images, columns))
        return len(images)

    def draw_steps(self, path: str | Path, **settings: Any) -> int:
        """`steps(**settings)` as a sheet (PNG) or playing (GIF, MP4), by the path's ending; return how many images."""
        self._require_room(path, settings.get("count", 4), self._frames)
        return _play(path, self.steps(**settings), None)

    def draw_reconstructed(self, path: str | Path, *images: Named, seed: int = 0) -> int:
        """The same of images that are read and drawn; return how many."""
        model, (levels, labels) = self._draw("reconstruct"), self.read(*images)
        self._require_room(path, len(levels), 2 * self._frames)
        return _play(path, *self._reconstructed(model, levels, labels, seed))

    def draw_completed(self, path: str | Path, *images: Named, count: int = 4, seed: int = 0) -> int:
        """A sheet as PNG, a row for each image: itself, its upper half, and `count` completions; return how many images."""
        self._require_pixels()
        levels = torch.from_numpy(self.read(*images)[0]).float()
        self._require_room(path, len(levels), count + 2)
        seeds = np.random.default_rng(seed).integers(2**63, size=count)
        completed = [generate.complete(self.model, levels, int(each)) for each in seeds]
        whole = brightness(levels, self.config.levels)
        half = whole.clone()
        half[:, :, half.shape[2] // 2 :] = 0.5
        rows = torch.stack([whole, half, *completed], dim=1).flatten(0, 1)
        sheets.write(path, show.sheet(rows, columns=count + 2))
        return len(whole)

    def gallery(self, folder: Path, *images: Named) -> list[Path]:
        """Draw how images come to be, as PNG and, step by step, as an animation: new ones, or with images DRAW reads and draws
        these, and a PixelRNN makes their lower half anew; return the paths.
        """
        if images and not isinstance(self.model, Draw):
            self.draw_completed(folder / "complete.png", *images)
            return [folder / "complete.png"]
        paths = [folder / f"{'reconstruct' if images else 'steps'}{ending}" for ending in (".png", ".gif")]
        for path in paths:
            if images:
                self.draw_reconstructed(path, *images)
            else:
                self.draw_steps(path, count=self._few(4))
        return paths

    def preview(self) -> Preview:
        """A few images, a sheet of more, and how some of them were made."""
        pictures = self.folder / "pictures"
        images = self.draw(10 * self._columns if self._columns else 64)
        sheets.write(pictures / "samples.png", show.sheet(images, self._columns))
        lines = [show.text(images[:SHOWN]), "", f"{len(images)} of them: {pictures / 'samples.png'}"]
        self.draw_steps(pictures / "steps.png", count=self._few(4))
        self.draw_steps(pictures / "steps.gif", count=self._few(16))
        lines.append(f"how they were made: {pictures / 'steps.png'}, {pictures / 'steps.gif'}")
        return Preview("what it draws", "\n".join(lines), (f"unrolled draw {self.folder} --count 100",))

    def export(self, path: str | Path) -> Path:
        """Not available for drawing.

        Raises:
            ExportError: always; it says why.
        """
        raise ExportError(f"{self.folder}: a drawing network cannot be exported: unrolled.export has no loop over its steps.")

    def _draw(self, what: str) -> Draw:
        if isinstance(self.model, Draw):
            return self.model
        raise RunError(f"{self.folder}: {what}: expected a DRAW, got a {self.config.model}, which has no canvas.")

    def _reconstructed(self, model: Draw, levels: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Drawn, Tensor]:
        x = torch.from_numpy(levels).float()
        drawn = model.reconstruct(x, torch.from_numpy(labels), torch.Generator().manual_seed(seed))
        return drawn, brightness(x, self.config.levels)

    @property
    def _frames(self) -> int:
        """Pictures of an image on the way."""
        return 1 + (self.config.steps if isinstance(self.model, Draw) else self.facts.height)

    def _few(self, count: int) -> int:
        """So many, or as many as there is room for step by step: one at least, as the largest settings have."""
        return min(count, self._room(self._frames))

    def _room(self, times: int) -> int:
        """How many images a file has room for that shows each so many times."""
        return sheets.room(show.SMALLEST, self.facts.height, self.facts.width) // times

    def _require_room(self, path: str | Path, count: int, times: int = 1) -> None:
        """Before they are drawn, which may take long.

        Raises:
            DataError: more images than there is room for.
        """
        if count > (room := self._room(times)):
            each = f", each {times:,} times" * (times > 1)
            raise DataError(
                f"{path}: expected at most {room:,} images, which it has room for{each}, got {count:,}. Show fewer."
            )

    @property
    def _columns(self) -> int | None:
        """Of a sheet on which the classes are drawn in turn: one for each, where there is room."""
        return len(self.facts.classes) if 1 < len(self.facts.classes) <= 20 else None

    def _require_pixels(self) -> None:
        if isinstance(self.model, Draw):
            raise RunError(
                f"{self.folder}: a DRAW makes the whole of an image from its latent variables, and cannot complete one; "
                "--model row_lstm and diagonal_bilstm can."
            )

    def _classes(self, count: int, label: str | None) -> Tensor | None:
        """(count,): the class asked for, or each in turn; None where it was told none."""
        classes = self.facts.classes
        if label is None:
            return data.each_class(self.facts, count)
        if not classes:
            raise RunError(f"{self.folder}: it was not told classes, so it cannot draw {label!r}. Train with --conditional.")
        if label not in classes:
            raise RunError(f"{self.folder}: knows no class {label!r}.{nearest(label, classes)} It has {', '.join(classes)}.")
        return torch.full((count,), classes.index(label))


def _play(path: str | Path, drawn: Drawn, images: Tensor | None) -> int:
    if Path(path).suffix.lower() == ".png":
        sheets.write(path, show.sheet_of_steps(drawn, images))
    else:
        animation.write(path, show.frames(drawn, images))
    return drawn.canvases.shape[1]


def _silent(text: str) -> None:
    """Discard a message."""
