"""`unrolled label --show` draws each sequence, with its errors where the truth is known."""

from pathlib import Path

import numpy as np
from PIL import Image

from unrolled.data.sequences import Sequence
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
