"""Glimpses as the training loop sees them, and as a trained run is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unrolled import checkpoint, files
from unrolled.data.image_parts import FACTS, TRAINING, VALIDATION, Facts, Labelled, Part
from unrolled.data.images import find_images
from unrolled.data.sources import Named, kind_of, names
from unrolled.errors import DataError, ExportError
from unrolled.inspection import animation, sheets
from unrolled.task import Carry, Metric, Preview, Processes, Step
from unrolled.tasks.glimpse import data, generate, show
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.data import Batches
from unrolled.tasks.glimpse.generate import Look, looks
from unrolled.tasks.glimpse.loss import measure, training_loss
from unrolled.tasks.glimpse.model import Glimpses
from unrolled.tasks.glimpse.reader import Reader
from unrolled.tasks.glimpse.sequences import as_text, until

SHOWN = 8
"""Images of a sample on the screen, and of a preview."""


class Task:
    """A network that looks, bound to its run folder, for `unrolled.training.train`."""

    name = "glimpse"
    unit = "images"
    loss_name = "hybrid loss"
    selection = Metric("accuracy", "accuracy", lower_is_better=False)
    prepare = staticmethod(data.prepare)

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.facts = files.read_as(folder / FACTS, Facts)
        self.training, self.validation = (data.part(folder / name, self.facts, config) for name in (TRAINING, VALIDATION))
        self.batches = Batches(config, self.training)
        channels, height, width = self.facts.shape
        on = f" on {config.canvas} x {config.canvas}" if config.canvas else ""
        on = f", up to {config.objects} side by side{on}" if config.canvas and config.objects else on
        self.summary = (
            f"{len(self.training):,} images of {height} x {width} pixels{on}{' in colour' * (channels == 3)} in "
            f"{len(self.facts.classes)} classes to learn from, {len(self.validation):,} to measure on"
        )

    @classmethod
    def on_other_data(cls, config: Config, folder: Path, paths: list[str]) -> Task:
        """The same task with batches of other images: for looking into its gradient.

        Raises:
            DataError: they cannot be read, are of another size, or have no classes or others than the run's.
        """
        task = cls(config, folder)
        images, labels, classes = data.read(paths, config, _silent, task.facts)
        if not classes:
            raise DataError(f"{', '.join(paths)}: expected images with classes to look into, got images without.")
        task.batches = Batches(config, Labelled(images, labels))
        return task

    def build(self) -> nn.Module:
        return _network(self.config, self.facts)

    def batch(self, step: int) -> dict[str, Any]:
        return self.batches.batch(step)

    def loss(self, model: nn.Module, batch: dict[str, Any], carry: Carry) -> Step:
        return training_loss(model, batch, self.config)  # type: ignore[arg-type]  # what build returned

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        if not len(self.validation):
            return {}
        part = self.validation
        return measure(model, part.images, part.labels, self.config, processes=processes)  # type: ignore[arg-type]

    def show(self, model: nn.Module, seed: int) -> str:
        part = self.validation if len(self.validation) else self.training
        return "\n".join(_in_words(_look_at(model, part, self.config, self.facts, seed)))  # type: ignore[arg-type]


class Run:
    """A trained network that looks, from its run folder.

    Raises:
        RunError: the folder is missing, damaged, of a newer format, or of another task.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: Config = checkpoint.open_config(self.folder, Task.name, Config)
        self.facts = files.read_as(self.folder / FACTS, Facts)
        self.model = checkpoint.load_model(self.folder, lambda: _network(self.config, self.facts))
        self.model.eval()

    def look(self, *paths: Named, seed: int = 0) -> list[Look]:
        """Look at images in any form that training takes, with classes or without: for each what was said after each glimpse,
        and where these were.

        With a canvas, images of its size are taken as they are, and those of the size that was trained on are placed on it.

        Args:
            paths: the images.
            seed: of the path that is drawn; of `samples` paths the first is shown, and the probabilities are their mean.

        Raises:
            DataError: an image that cannot be read, or is of another size.
        """
        found: list[Look] = []
        for path in names(paths):
            for file in _one_by_one(path):
                images = self._to_look_at(file)
                for start in range(0, len(images), data.AT_ONCE):
                    some = images[start : start + data.AT_ONCE]
                    seen = generate.look(self.model, some, self.config.glimpses, self.config.samples, seed + len(found))
                    called = [f"{file}[{start + n}]" if len(images) > 1 else file for n in range(len(some))]
                    found += looks(seen, some, self.facts.classes, called, self.config.objects)
        return found

    def evaluate(self, *paths: Named, report: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
        """`loss` in nats per image, `accuracy`, of sequences `symbol_error_rate`, and how many `images` there were,
        `glimpses` it took (of each symbol), and paths it drew (`samples`; 0 where it looked along the policy's means).
        """
        images, labels, classes = data.read(names(paths), self.config, _silent, self.facts)
        if not classes:
            raise DataError(f"{', '.join(names(paths))}: expected images with classes to measure on, got images without.")
        told = partial(report, "images") if report else None
        found = measure(self.model, images, labels, self.config, report=told)
        counted = {} if self.config.attention == "soft" else {"samples": self.config.samples}
        return {**found, "images": len(images), "glimpses": self.config.glimpses, **counted}

    def draw(self, several: list[Look], *paths: Path) -> None:
        """Pictures of some that were looked at: .png, a row for each with a column for each glimpse; .gif or .mp4, which play.

        Raises:
            DataError: another ending, or for .mp4 PyAV is not installed.
            RunError: a file cannot be written.
        """
        size, scales = self.config.glimpse_size, self.config.scales
        for path in paths:
            if path.suffix.lower() == ".png":
                sheets.write(path, show.sheet(several, size, scales))
            else:
                animation.write(path, show.frames(several, size, scales), seconds=0.6)

    def gallery(self, folder: Path, *images: Named) -> list[Path]:
        """Draw where it looked, and what it said after each glimpse, as PNG and as an animation for each image, or for a few
        that it was measured on where none is named; return the paths.
        """
        paths: list[Path] = []
        for number, one in enumerate(self.look(*images) if images else self._some_looks(), 1):
            both = [folder / f"{number:05}.png", folder / f"{number:05}.gif"]
            self.draw([one], *both)
            paths += both
        return paths

    def _some_looks(self) -> list[Look]:
        """At the first images that it was measured on, or trained on if there are no such."""
        part = data.part(self.folder / VALIDATION, self.facts, self.config)
        part = part if len(part) else data.part(self.folder / TRAINING, self.facts, self.config)
        return _look_at(self.model, part, self.config, self.facts, seed=0)

    def preview(self) -> Preview:
        """What it says of a few images, and pictures of where it looked."""
        found = self._some_looks()
        paths = [self.folder / "pictures" / name for name in ("looks.png", "looks.gif")]
        self.draw(found, *paths)
        lines = [*_in_words(found), "", "where it looked:", *map(str, paths)]
        return Preview("the class, and what it says after each glimpse", "\n".join(lines))

    def export(self, path: str | Path) -> Path:
        """Not available for glimpses.

        Raises:
            ExportError: always; it says why.
        """
        raise ExportError(
            f"{self.folder}: a network that looks cannot be exported: unrolled.export has no loop that asks for parts of an "
            "image."
        )

    def _to_look_at(self, path: str) -> Tensor:
        """(N, C, height, width), 0..1, on the canvas if there is one."""
        images, canvas = data.read_to_look_at(path, self.config, self.facts), self.config.canvas
        if canvas and images.shape[2:] == (canvas, canvas):
            return data.to_floats(images)
        return torch.cat([data.to_measure_on(images, self.config, at)[0] for at in range(0, len(images), data.AT_ONCE)])


def _network(config: Config, facts: Facts) -> Glimpses | Reader:
    if config.objects:
        return Reader(config, facts.channels, len(facts.classes) + 1)
    return Glimpses(config, facts.channels, len(facts.classes))


def _one_by_one(path: str) -> list[str]:
    """The images of a folder, which have names; other files, and a folder of an IDX file, as they are."""
    if kind_of(path) != "folder":
        return [path]
    try:
        return [str(file) for file in find_images([path])]
    except DataError:
        return [path]


def _look_at(model: Glimpses | Reader, part: Part, config: Config, facts: Facts, seed: int) -> list[Look]:
    """At the first images of a part, each called by its class."""
    if config.objects:
        images, targets = data.sequences_to_measure_on(part.images[:SHOWN], part.labels[:SHOWN], config)
        called = [as_text([facts.classes[number] for number in until(each, len(facts.classes))]) for each in targets.tolist()]
    else:
        images, _ = data.to_measure_on(part.images[:SHOWN], config)
        called = [facts.classes[label] for label in part.labels[:SHOWN]]
    seen = generate.look(model, images, config.glimpses, config.samples, seed)
    return looks(seen, images, facts.classes, called, config.objects)


def _in_words(found: list[Look]) -> list[str]:
    """`7: 1 31%, 7 64%, 7 98%` for each."""
    return [f"{look.name}: " + ", ".join(f"{each.label} {each.probability:.0%}" for each in look.glimpses) for look in found]


def _silent(text: str) -> None:
    """Discard a message."""
