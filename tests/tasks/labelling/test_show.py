"""`unrolled label --show` draws each sequence, with its errors where the truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unrolled.data import video
from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.tasks.labelling.generate import Labelled
from unrolled.tasks.labelling.show import draw

NONE = np.zeros((0, 2), np.float32)


def test_words_stand_apart_and_wrong_ones_name_both_labels(tmp_path: Path) -> None:
    one = Labelled(Sequence("s", ["It", "rains"], ["PRON", "VERB"]), ["PRON", "NOUN"], NONE)
    page, picture = draw(tmp_path / "new", 7, one, ["NOUN", "PRON", "VERB"])
    assert [page.name, picture.name] == ["000007.html", "000007.png"]
    assert 'title="PRON">It</span> <span' in page.read_text()
    assert 'title="NOUN, true: VERB">rains</span>' in page.read_text()
    assert "wrong" not in draw(tmp_path, 8, one._replace(labels=["PRON", "VERB"]), [])[0].read_text().split("</style>")[1]


def test_steps_without_a_true_label_are_not_wrong(tmp_path: Path) -> None:
    one = Labelled(Sequence("s", "ab", ["", "X"]), ["O", "X"], NONE)
    assert "true:" not in draw(tmp_path, 1, one, ["O", "X"])[0].read_text()


def test_numbers_become_a_timeline_with_one_strip_more_where_the_truth_is_known(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    without = draw(tmp_path, 1, Labelled(Sequence("s", inputs), ["a"] * 9, NONE), ["a"])
    known = draw(tmp_path, 2, Labelled(Sequence("s", inputs, ["a"] * 9), ["a"] * 9, NONE), ["a"])
    whole = draw(tmp_path, 3, Labelled(Sequence("s", inputs, frozenset("b")), frozenset("a"), NONE), ["a", "b"])
    heights = [Image.open(path).height for (path,) in (without, known)]
    assert heights[0] < heights[1]
    assert whole[0].name == "000003.png"
    assert draw(tmp_path, 4, Labelled(Sequence("s", inputs[:0]), [], NONE), ["a"]) == []


def test_a_video_is_drawn_with_its_own_frames_and_their_labels_below(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(4):
        Image.fromarray(np.full((24, 32, 3), 60 * n, np.uint8)).save(folder / f"{n}.png")
    sequence = video.read(Source(str(folder)), 2, 8)
    one = Labelled(replace(sequence, labels=["a", "a", "b", ""]), ["a", "b", "b", "b"], NONE)
    timeline, annotated = draw(tmp_path / "drawn", 3, one, ["a", "b"], 2)
    assert [timeline.name, annotated.name] == ["000003.png", "000003.mp4"]
    found = list(video.all_frames(str(annotated), 2))
    assert [seconds for seconds, _ in found] == [0, 0.5, 1, 1.5]
    assert [round(float(frame[20:100].mean()) / 60) for _, frame in found] == [0, 1, 2, 3]
    features = Labelled(Sequence(str(folder), np.ones((4, 64), np.float32), None, sequence.times), ["a"] * 4, NONE)
    assert len(draw(tmp_path / "drawn", 4, features, ["a"], 2)) == 2


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_of_numbers_are_drawn_in_grey_on_one_scale(tmp_path: Path, channels: int) -> None:
    pictures = np.stack([np.full((6, 8, channels), celsius, np.float16) for celsius in (20.0, 20.0, 30.0)])
    (path,) = draw(tmp_path, 1, Labelled(Sequence("s", pictures), ["a", "a", "b"], NONE), ["a", "b"])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    row = pixels[int(pixels.shape[0] * 0.75), pixels.shape[1] // 10 :: pixels.shape[1] // 10]
    assert row[1].tolist() == [0, 0, 0]
    assert row[-2].tolist() == [255, 255, 255]
