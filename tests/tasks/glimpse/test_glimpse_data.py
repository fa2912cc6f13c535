"""Images on canvases among pieces of others, and what cannot be looked at."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tasks.glimpse.conftest import TINY, squares

from unrolled import tasks
from unrolled.errors import ConfigError, DataError
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.data import AT_ONCE, Batches, placed, to_measure_on
from unrolled.tasks.glimpse.sequences import NOTHING, beside


def test_an_image_lies_whole_on_a_black_canvas() -> None:
    images = np.random.default_rng(0).integers(1, 256, (50, 3, 4, 6), dtype=np.uint8)
    canvases, corners = placed(images, images, Config(canvas=9), np.random.default_rng(1))
    assert canvases.shape == (50, 3, 9, 9)
    for image, canvas, (top, left) in zip(images, canvases, corners, strict=True):
        assert (canvas[:, top : top + 4, left : left + 6] == image).all()
        assert np.count_nonzero(canvas) == image.size
    assert {tuple(corner) for corner in corners} >= {(0, 0), (5, 3)}  # it comes to the edges


def test_clutter_is_made_of_pieces_of_other_images_and_hides_nothing_brighter() -> None:
    images = np.full((20, 1, 5, 5), 100, np.uint8)
    others = np.full((3, 1, 5, 5), 200, np.uint8)
    config = Config(canvas=16, clutter=2, clutter_size=3)
    canvases, corners = placed(images, others, config, np.random.default_rng(1))
    assert set(np.unique(canvases)) == {0, 100, 200}
    for canvas, (top, left) in zip(canvases, corners, strict=True):
        assert 9 < (canvas == 200).sum() <= 18 or (canvas == 200).sum() == 9
        assert (canvas[0, top : top + 5, left : left + 5] >= 100).all()


def test_what_is_measured_on_is_the_same_every_time_and_does_not_depend_on_the_runs_seed() -> None:
    images = squares(20)[0][:, None]
    config = Config(canvas=20, clutter=3, clutter_size=4)
    one, where = to_measure_on(images, config)
    other, same = to_measure_on(images, config.model_copy(update={"seed": 5, "glimpses": 9}))
    assert (one == other).all()
    assert (where == same).all()
    assert len({tuple(corner) for corner in where}) > 10
    many = np.zeros((AT_ONCE + 3, 1, 2, 2), np.uint8)
    assert len(to_measure_on(many, config.model_copy(update={"clutter": 0}), AT_ONCE)[0]) == 3


def test_the_curriculum_begins_in_the_middle_and_ends_on_all_of_the_canvas() -> None:
    images = np.random.default_rng(0).integers(1, 256, (300, 1, 4, 6), dtype=np.uint8)
    config = Config(canvas=12, batch_size=300, curriculum=10)

    def reach(step: int) -> list[int]:
        seen = Batches(config, Held(images)).batch(step)["images"].squeeze(1) > 0
        rows, columns = (seen.any(axis).int().argmax(1) for axis in (2, 1))
        return [int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())]

    assert reach(0) == [4, 4, 3, 3]
    assert reach(5) == [2, 6, 2, 4]
    assert reach(10) == reach(99) == [0, 8, 0, 6]


def test_the_curriculum_of_several_objects_begins_side_by_side_in_the_middle() -> None:
    images, targets = np.full((40, 1, 4, 3), 9, np.uint8), np.tile([0, 1, NOTHING], (40, 1))
    config = Config(canvas=12, objects=2)
    corners = beside(images, targets, 40, config, np.random.default_rng(0), spread=0.0)[2]
    assert {tuple(map(tuple, one)) for one in corners.tolist()} == {((4, 5), (NOTHING, NOTHING)), ((4, 3), (4, 6))}


def write(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "images.npz", **arrays)
    return str(folder / "images.npz")


class Held:
    """A part of a run's images, in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.labels = images, np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        return len(self.images)


MISTAKES = {
    "one class": ({"labels": np.zeros(8, int)}, {}, "expected images of two classes or more, got one, 0."),
    "no classes": ({}, {}, "expected images of two classes or more, got images without classes."),
    "a large glimpse": (
        {"labels": np.arange(8) % 2},
        {"glimpse_size": 8},
        "expected images that a glimpse of 8 x 8 pixels fits into, got 9 x 7. Make glimpse_size (--glimpse-size) smaller.",
    ),
    "a small canvas": (
        {"labels": np.arange(8) % 2},
        {"canvas": 8},
        "expected images that fit on the canvas of 8 x 8 pixels, got 9 x 7. Make canvas (--canvas) larger, or them smaller by "
        "size (--size).",
    ),
    "large clutter": (
        {"labels": np.arange(8) % 2},
        {"canvas": 20, "clutter": 1, "clutter_size": 8},
        "expected images that pieces of 8 x 8 pixels can be cut from, got 9 x 7. Make clutter_size (--clutter-size) smaller.",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_cannot_be_learned_from_is_said_in_one_line(what: str, tmp_path: Path) -> None:
    arrays, settings, said = MISTAKES[what]
    path = write(tmp_path, images=squares(8)[0], **arrays)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}: {said}") + "$"):
        tasks.train("glimpse", path, run=tmp_path / "run", **{**TINY, **settings})
    assert not (tmp_path / "run").exists()


def test_images_of_one_pixel_take_a_glimpse_of_one(tmp_path: Path) -> None:
    path = write(tmp_path, images=np.array([[[0]], [[255]]] * 6, np.uint8), labels=np.arange(12) % 2)
    with pytest.raises(DataError, match=r"a glimpse of 4 x 4 pixels fits into, got 1 x 1\."):
        tasks.train("glimpse", path, run=tmp_path / "run", **TINY)
    assert tasks.train("glimpse", path, run=tmp_path / "run", **{**TINY, "glimpse_size": 1}).reason == "finished"


WRONG_SETTINGS = {
    "glimpses: ": {"glimpses": 0},
    "clutter: 2 pieces need a canvas to lie on": {"clutter": 2},
    "curriculum: places spread on a canvas, and there is none": {"curriculum": 5},
    "clutter_size: expected at most the canvas, 8, got 9": {"canvas": 8, "clutter": 1, "clutter_size": 9},
    "samples: random glimpses have no policy": {"attention": "random", "samples": 0},
}


@pytest.mark.parametrize("said", WRONG_SETTINGS)
def test_settings_that_make_no_sense_are_refused(said: str, square_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        tasks.train("glimpse", square_file, run=tmp_path / "run", **{**TINY, **WRONG_SETTINGS[said]})


def test_class_folders_and_colour_are_learned_from(command, tmp_path: Path) -> None:
    for name, colour in (("red", "#f00000"), ("blue", "#0000f0")):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (6, 6), colour).save(tmp_path / "all" / name / f"{number}.png")
    outcome = tasks.train("glimpse", tmp_path / "all", run=tmp_path / "run", colour=True, validation_fraction=0.25, **TINY)
    assert outcome.metrics.keys() == {"loss", "accuracy"}
    code, out, errors = command("look", tmp_path / "run", tmp_path / "all")
    assert (code, errors) == (0, "")
    assert [line.split(",")[0] for line in out.splitlines()[1 :: TINY["glimpses"]]] == [
        str(tmp_path / "all" / name / f"{number}.png") for name in ("blue", "red") for number in range(4)
    ]
