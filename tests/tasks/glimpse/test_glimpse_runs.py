"""A trained run from Python and from the command line: looking, measuring, pictures."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.glimpse.conftest import TINY, squares
from tests.tolerance import assert_same

from unrolled import checkpoint, tasks
from unrolled.errors import DataError
from unrolled.tasks.glimpse import generate
from unrolled.tasks.glimpse.generate import Glimpse, Look
from unrolled.tasks.glimpse.show import seen_so_far


def test_a_look_says_where_it_was_and_what_it_thought_after_each_glimpse(command, look_run: Path, square_file: Path) -> None:
    code, out, errors = command("look", look_run, square_file)
    assert (code, errors) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 40 * TINY["glimpses"]
    assert [row["glimpse"] for row in rows[:4]] == ["1", "2", "3", "1"]
    assert rows[-1]["image"] == f"{square_file}[39]"
    assert all(0 <= float(row["row"]) <= 12 and 0 <= float(row["column"]) <= 12 for row in rows)
    assert all(row["label"] in ("bright", "dark") and 0.5 <= float(row["probability"]) <= 1 for row in rows)
    code, out, _ = command("look", look_run, square_file, "--json", "--glimpses", "5", "--samples", "0")
    objects = [json.loads(line) for line in out.splitlines()]
    assert (len(objects), len(objects[0]["glimpses"])) == (40, 5)
    last = objects[0]["glimpses"][-1]
    assert (objects[0]["label"], objects[0]["probability"]) == (last["label"], last["probability"])


def test_the_same_seed_draws_the_same_path_and_the_means_need_none(look_run: Path, square_file: Path) -> None:
    run, means = tasks.load(look_run), tasks.load(look_run, samples=0)
    one, same, other = (run.look(square_file, seed=seed)[0].glimpses for seed in (3, 3, 4))
    assert one == same
    assert one != other
    assert means.look(square_file, seed=3)[0].glimpses == means.look(square_file, seed=4)[0].glimpses


def test_probabilities_of_several_paths_are_averaged(look_run: Path) -> None:
    model, images = tasks.load(look_run).model, torch.rand(3, 1, 12, 12)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        paths = [model(images, generator=generator).scores.softmax(2) for _ in range(4)]
    assert_same(generate.look(model, images, TINY["glimpses"], 4, seed=7).probabilities, torch.stack(paths).mean(0))


def test_evaluating_says_how_it_looked_and_agrees_with_looking(command, look_run: Path, square_file: Path) -> None:
    code, out, errors = command("evaluate", look_run, square_file, "--json", "--set", "samples=0", "--set", "glimpses=2")
    assert code == 0, errors
    found = json.loads(out)
    assert found.keys() == {"loss", "accuracy", "images", "glimpses", "samples"}
    assert (found["images"], found["glimpses"], found["samples"]) == (40, 2, 0)
    said = [look.label for look in tasks.load(look_run, samples=0, glimpses=2).look(square_file)]
    truth = np.load(square_file)["labels"]
    assert found["accuracy"] == pytest.approx(np.mean(truth == said))


def test_an_image_as_large_as_the_canvas_is_taken_as_it_is(look_run: Path, tmp_path: Path) -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(canvas).save(tmp_path / "canvas.png")
    run = tasks.load(look_run)
    assert_same(torch.from_numpy(run.look(tmp_path / "canvas.png")[0].image[0]), torch.from_numpy(canvas / np.float32(255)))
    Image.fromarray(canvas[:, :9]).save(tmp_path / "other.png")
    said = r"expected images of 9 x 7 or 12 x 12 pixels, as those it was trained on, got 12 x 9\. Resize them, or train with"
    with pytest.raises(DataError, match=said):
        run.look(tmp_path / "other.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")  # a hundred megapixels
    with pytest.raises(DataError, match=r"expected images of 9 x 7 or 12 x 12 pixels, .*, got 10,000 x 10,000\. Resize them"):
        run.look(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"expected images of 9 x 7 pixels, as those it was trained on, got 12 x 9\."):
        run.evaluate(tmp_path / "other.png")


def test_an_mp4_that_cannot_be_written_is_refused_before_any_work(
    command, look_run: Path, square_file: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, out, errors = command("look", look_run, square_file, "--show", tmp_path / "looks", "--film", "mp4")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "needs the package av" in errors
    assert not (tmp_path / "looks").exists()


def test_pictures_of_each_image_are_drawn(command, look_run: Path, tmp_path: Path) -> None:
    for number, image in enumerate(squares(2)[0]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    show = tmp_path / "pictures"
    code, _, errors = command("look", look_run, tmp_path / "0.png", tmp_path / "1.png", "--show", show)
    assert (code, errors) == (0, "")
    assert sorted(path.name for path in show.iterdir()) == ["00001.gif", "00001.png", "00002.gif", "00002.png"]
    assert Image.open(show / "00001.png").width == TINY["glimpses"] * (120 + 8)  # 12 pixels, ten times as large
    assert Image.open(show / "00001.gif").n_frames == TINY["glimpses"]


def test_what_has_been_seen_is_there_at_the_finest_scale_and_the_rest_is_not() -> None:
    image = np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
    path = [Glimpse(2.0, 2.0, "a", 0.5), Glimpse(4.0, 4.0, "a", 0.5)]
    first, both = seen_so_far(Look("", image, path), 2, 2)
    assert (first[:, 1:3, 1:3] == image[:, 1:3, 1:3]).all()
    assert_same(torch.tensor(first[0, 0, 0]), torch.tensor(image[0, :2, :2].mean()))
    assert np.isnan(first[:, 4:]).all()
    assert (both[:, 1:3, 1:3] == image[:, 1:3, 1:3]).all()  # the coarse scale of the second does not hide them
    assert (both[:, 3:5, 3:5] == image[:, 3:5, 3:5]).all()


@pytest.mark.parametrize("attention", ["soft", "random"])
def test_the_other_ways_of_looking_train_and_are_used(command, attention: str, square_file: Path, tmp_path: Path) -> None:
    tasks.train("glimpse", square_file, run=tmp_path / "run", attention=attention, cell="gru", **TINY)
    code, out, _ = command("evaluate", tmp_path / "run", square_file, "--json")
    assert code == 0
    assert ("samples" in json.loads(out)) == (attention == "random")
    assert len(tasks.load(tmp_path / "run").look(square_file)) == 40
    names = checkpoint.read_tensors(tmp_path / "run" / checkpoint.MODEL)[0]
    assert ("policy.weight" in names) == (attention == "soft")
