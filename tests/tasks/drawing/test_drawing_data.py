"""The images of a run: black and white by a fixed seed, levels, distorted, in batches; and what cannot be learned from."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tasks.drawing.conftest import TINY, bars

from unrolled import files, tasks
from unrolled.data.image_parts import FACTS, TRAINING, VALIDATION, Facts, Part
from unrolled.data.rows import open_rows
from unrolled.errors import ConfigError, DataError
from unrolled.tasks.drawing import data
from unrolled.tasks.drawing.config import Config


def prepared(folder: Path, path: Path, **settings) -> tuple[Config, Facts]:
    folder.mkdir()
    config = Config(data=(str(path),), **settings)
    data.prepare(config, folder, lambda line: None)
    return config, files.read_as(folder / FACTS, Facts)


def test_black_and_white_is_the_same_in_every_run_and_as_bright_on_average() -> None:
    images = np.repeat(np.arange(0, 256, 51, dtype=np.uint8), 4000).reshape(6, 1, 40, 100)
    drawn = data.quantised(images, 2)
    np.testing.assert_array_equal(drawn, data.quantised(images, 2))
    np.testing.assert_array_equal(drawn[:2], data.quantised(images[:2], 2))  # the first do not depend on how many follow
    assert drawn.mean((1, 2, 3)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=0.02)
    assert (drawn[0].max(), drawn[5].min()) == (0, 1)


def test_levels_divide_brightness_evenly() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.bincount(data.quantised(every, 4)).tolist() == [64] * 4
    np.testing.assert_array_equal(data.quantised(every, 256), every)


def test_validation_stays_black_and_white_as_it_was_drawn_and_training_is_drawn_anew(bar_file: Path, tmp_path: Path) -> None:
    whole = data.quantised(bars(40)[0][:, None], 2)
    for resample in (False, True):
        config, facts = prepared(tmp_path / f"run{resample}", bar_file, resample=resample, validation_fraction=0.25)
        part = Part(tmp_path / f"run{resample}" / TRAINING, facts)
        held = open_rows(tmp_path / f"run{resample}" / VALIDATION, "images")
        order = np.random.default_rng(config.seed).permutation(40)
        np.testing.assert_array_equal(held, whole[np.sort(order[:10])])
        batches = data.Batches(config.model_copy(update={"batch_size": 30}), part)
        first, again, second = batches.batch(0)["images"], batches.batch(0)["images"], batches.batch(1)["images"]
        assert first.equal(again)
        assert set(first.unique().tolist()) == {0, 1}
        rows = sorted(map(bytes, first.byte().numpy()))
        assert (rows == sorted(map(bytes, second.byte().numpy()))) == (not resample)


def test_an_epoch_shows_every_image_once_with_its_class(bar_file: Path, tmp_path: Path) -> None:
    config, facts = prepared(tmp_path / "run", bar_file, levels=256, validation_fraction=0, batch_size=8, conditional=True)
    batches = data.Batches(config, Part(tmp_path / "run" / TRAINING, facts))
    assert (batches.per_epoch, facts.classes) == (5, ["0", "1"])
    shown = [batches.batch(step) for step in range(5)]
    images, labels = bars(40)
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = {
        image.byte().numpy().tobytes(): int(label)
        for one in shown
        for image, label in zip(one["images"], one["labels"], strict=True)
    }
    assert found == expected


def test_distorted_images_stay_alike_and_move() -> None:
    image = np.zeros((1, 1, 21, 21), np.uint8)
    image[:, :, 8:13, 8:13] = 250
    many = np.repeat(image, 200, 0)
    still = data.distorted(many, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(still, many)
    moved = data.distorted(many, 0.1, np.random.default_rng(0)).astype(float)
    assert moved.sum((1, 2, 3)).mean() == pytest.approx(image.sum(), rel=0.1)
    rows = (moved * np.arange(21)[:, None]).sum((1, 2, 3)) / moved.sum((1, 2, 3))
    assert rows.std() == pytest.approx(0.1 * 21 / 2, rel=0.25)  # of half the side


def test_inverted_images_are(tmp_path: Path, bar_file: Path) -> None:
    _, facts = prepared(tmp_path / "run", bar_file, levels=256, invert=True, validation_fraction=0)
    part = Part(tmp_path / "run" / TRAINING, facts)
    np.testing.assert_array_equal(255 - part.images[:, 0], bars(40)[0])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"conditional": True, "model": "row_lstm"}, "conditional: expected model draw, got row_lstm"),
        ({"resample": True, "levels": 4}, "resample: expected 2 levels, got 4"),
        ({"distort": 0.1}, "distort: of 2 levels it needs resample"),
    ],
    ids=str,
)
def test_settings_at_odds_are_refused(bar_file: Path, tmp_path: Path, settings: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        tasks.train("drawing", bar_file, run=tmp_path / "run", **{**TINY, **settings})


@pytest.mark.parametrize("pixels", [np.zeros((5, 1, 1), np.uint8), np.full((5, 3, 4), 255, np.uint8)], ids=["a pixel", "white"])
def test_images_of_one_pixel_and_of_one_colour_can_be_learned(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=pixels)
    outcome = tasks.train("drawing", tmp_path / "a.npz", run=tmp_path / "run", validation_fraction=0.4, **TINY)
    assert np.isfinite(outcome.metrics["loss"])
    assert tasks.load(tmp_path / "run").draw(3).shape == (3, 1, *pixels.shape[1:])


def test_classes_that_are_needed_and_not_there_are_refused(tmp_path: Path, draw_run: Path) -> None:
    for label in range(2):
        (tmp_path / "one" / "only").mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 7)).save(tmp_path / "one" / "only" / f"{label}.png")
    with pytest.raises(DataError, match="expected several classes, got one, only"):
        tasks.train("drawing", tmp_path / "one", run=tmp_path / "run", conditional=True, **TINY)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="expected images with classes, which the model is told, got images without"):
        tasks.load(draw_run).evaluate(tmp_path / "one" / "only")


def test_images_of_another_size_than_the_runs_are_refused(tmp_path: Path, draw_run: Path) -> None:
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 8, 8), np.uint8), labels=["0", "1"])
    with pytest.raises(DataError, match="expected images of 7 x 5 pixels, as those it was trained on, got 8 x 8"):
        tasks.load(draw_run).evaluate(tmp_path / "large.npz")
    Image.new("L", (600, 400)).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"expected images of 7 x 5 pixels, .*, got 400 x 600\. Resize them"):
        tasks.load(draw_run).reconstruct(tmp_path / "photo.png")


def test_an_image_too_large_to_learn_from_says_how_to_make_it_smaller(tmp_path: Path) -> None:
    """A hundred megapixels, in a file of some kilobytes."""
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="at most 256 x 256 pixels, got 10,000 x 10,000"):
        tasks.train("drawing", tmp_path / "large.png", run=tmp_path / "run", **TINY)
