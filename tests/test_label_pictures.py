"""Pictures of labels show what they were given, to those who are colour-blind too."""

import csv
import itertools
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unrolled.data import video
from unrolled.errors import DataError
from unrolled.inspection import annotated_video, coloured_text, confusion, timeline
from unrolled.inspection.label_styles import COLOURS, styles

# What people without one kind of cone see of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
AWKWARD = ["", " ", "$5_{x}$", "_hidden", "مارس", "a" * 90, "<b>&"]


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)])


def linear(colour: str) -> np.ndarray:
    c = rgb(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIE 1976: distances in it are about those that people see; 2.3 is just noticeable."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(light, 0, 1)
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(picture: np.ndarray, colour: str) -> float:
    return float((picture == rgb(colour)).all(-1).mean())


@pytest.mark.parametrize("people", SEEN_BY)
def test_every_two_colours_are_told_apart_by(people: str) -> None:
    seen = [lab(SEEN_BY[people] @ linear(colour)) for colour in COLOURS]
    assert min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)) > 6 * 2.3


def test_what_is_written_on_a_colour_can_be_read() -> None:
    for look in styles(map(str, range(8))).values():
        back, ink = (float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)) + 0.05 for colour in (look.colour, look.ink))
        assert max(back, ink) / min(back, ink) > 4.5  # WCAG 2, AA


def test_labels_keep_their_looks_and_beyond_eight_get_a_mark() -> None:
    looks = styles(map(str, range(32)))
    assert len(set(looks.values())) == 32
    assert styles(["a", "b", "a", "c"])["c"] == styles(["a", "b", "c"])["c"]


class Reader(HTMLParser):
    """The text of an HTML file's <pre>, with the title and class of each character."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inside, self.title, self.text, self.titles, self.addresses = False, "", "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes) -> None:
        given = dict(attributes)
        self.addresses += [value for name, value in attributes if name in ("href", "src")]
        self.inside = self.inside or tag == "pre"
        self.title = given.get("title", "") if tag == "span" else self.title

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "pre"
        self.title = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.text += data
            self.titles += [self.title] * len(data)


def test_html_keeps_every_character_and_names_labels_and_errors(tmp_path: Path) -> None:
    text = "\n  if a<b:\t# &amp; \"q\" 'p' é\r\n\n  x "
    labels: list = ["NAME" if c.isalpha() else None if c == "\n" else 'OP"<' for c in text]
    truth = [*labels]
    truth[3] = "KEY"
    path = coloured_text.draw(tmp_path / "new" / "a.html", text, labels, truth)
    page = path.read_bytes().decode()
    read = Reader(page)
    assert read.text[1:] == text  # a parser drops the line feed behind <pre>
    assert read.titles[1:] == ["NAME, true: KEY" if n == 3 else label or "" for n, label in enumerate(labels)]
    assert read.addresses == []
    assert "http" not in page
    assert "url(" not in page
    assert " wrong" in page
    assert "\x00" not in coloured_text.draw(path, "\x00\x9f", ["a", "b"]).read_text()


def test_html_is_made_for_dark_mode_phones_and_scripts_from_right_to_left(tmp_path: Path) -> None:
    page = coloured_text.draw(tmp_path / "a.html", "abc", "xyz", "xyx").read_text()
    for what in ("prefers-color-scheme:dark", 'name="viewport"', "unicode-bidi:plaintext"):
        assert what in page
    title, legend = page.split("<p>")[1:3]
    assert title.startswith("<b>Labels</b>")
    assert legend.count('<span class="entry">') == 4  # each label, and what is wrong, stays on a line with its count


def test_a_text_as_png_is_coloured_cell_by_cell(tmp_path: Path) -> None:
    several = [coloured_text.draw(tmp_path / f"{n}.png", " " * n + "\n", [*"a" * n, None], names=["a"]) for n in (10, 20)]
    ten, twenty = (int((pixels(path) == rgb(COLOURS[0])).all(-1).sum()) for path in several)
    assert twenty - ten == 10 * 10 * 22
    tab = coloured_text.draw(tmp_path / "tab.png", "\t" * 5, ["a"] * 5)
    assert int((pixels(tab) == rgb(COLOURS[0])).all(-1).sum()) == twenty
    assert max(pixels(coloured_text.draw(tmp_path / "long.png", "ab\n" * 5000, ["a"] * 15000)).shape) < 4000


@pytest.mark.parametrize("label", AWKWARD, ids=ascii)
def test_awkward_names_are_drawn_without_a_warning(label: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timeline.draw(tmp_path / "a.png", [label, "other"] * 3, inputs=np.ones((6, 2)), columns=[label, "b"])
        confusion.draw(tmp_path / "b.png", [label, "other"], np.ones((2, 2), dtype=np.int64))
        coloured_text.draw(tmp_path / "c.png", ["a b", "c"], [label, "other"])
        coloured_text.draw(tmp_path / "c.html", ["a b", "c"], [label, "other"])
    assert len(list(tmp_path.iterdir())) == 4


def test_a_timeline_has_the_truth_above_and_each_label_as_wide_as_it_lasts(tmp_path: Path) -> None:
    truth, predicted = ["a"] * 60 + ["b"] * 20, ["b"] * 80
    picture = pixels(timeline.draw(tmp_path / "a.png", predicted, truth, names=["a", "b"]))
    rows = [(picture == rgb(colour)).all(-1) for colour in COLOURS[:2]]
    strips = [int(np.argmax(row.sum(1))) for row in rows]  # where there is most of a, and of b
    assert strips[0] < strips[1]
    shown = [row[strips[0]].sum() for row in rows]
    assert shown[0] / shown[1] == pytest.approx(3, rel=0.15)


def test_long_and_wide_inputs_are_drawn_at_the_width_of_the_picture(tmp_path: Path) -> None:
    started = time.perf_counter()
    labels = ["a" if n // 7 % 2 else "b" for n in range(50_000)]
    timeline.draw(tmp_path / "a.png", labels, labels, inputs=np.random.rand(50_000, 3).astype(np.float32))
    timeline.draw(tmp_path / "b.png", ["a"] * 30, inputs=np.random.rand(30, 40), times=np.arange(30) / 7)
    timeline.draw(tmp_path / "c.png", ["a"] * 3, inputs=np.zeros((3, 8, 9, 3), np.uint8))
    timeline.draw(tmp_path / "d.png", [frozenset("ab"), frozenset()], [frozenset("a"), frozenset("c")])
    timeline.draw(tmp_path / "e.png", [frozenset()] * 2)
    assert max(max(pixels(path).shape) for path in tmp_path.iterdir()) < 2500
    assert time.perf_counter() - started < 60


def test_several_labels_at_once_are_coloured_by_their_error(tmp_path: Path) -> None:
    sets = {"right": frozenset("a"), "none": frozenset()}
    for said, true, colour in [("right", "right", "#000000"), ("none", "right", "#56B4E9"), ("right", "none", "#D55E00")]:
        picture = pixels(timeline.draw(tmp_path / "a.png", [sets[said]] * 9, [sets[true]] * 9))
        assert share(picture, colour) > 0.25


def test_numbers_of_a_confusion_matrix_come_back_from_its_csv(tmp_path: Path) -> None:
    counts = np.arange(9).reshape(3, 3)
    rows = list(csv.reader(confusion.as_csv(["a,b", 'c"', "d"], counts).splitlines()))
    assert rows[0] == ["true", "a,b", 'c"', "d"]
    assert (np.array([row[1:] for row in rows[1:]], dtype=int) == counts).all()
    light, dark = (pixels(confusion.draw(tmp_path / "a.png", ["a", "b"], np.array([[n, 1], [1, n]]))).mean() for n in (1, 99))
    assert dark < light
    assert max(pixels(confusion.draw(tmp_path / "b.png", [f"{n}" for n in range(90)], np.ones((90, 90), int))).shape) < 3000


def moving(count: int):
    """Frames at uneven times."""
    for n in range(count):
        yield 0.04 * n + 0.1 * (n > 2), np.full((33, 51, 3), 20 * n, np.uint8)


def test_an_annotated_video_keeps_the_times_of_its_frames_and_shows_all_labels_below(tmp_path: Path) -> None:
    path = annotated_video.write(tmp_path / "new" / "a.mp4", moving(6), ["a", "b"], [0.0, 0.15], truth=["a", "a"])
    found = list(video.all_frames(str(path), 1))
    assert [seconds for seconds, _ in found] == pytest.approx([seconds for seconds, _ in moving(6)], abs=1e-3)
    assert found[0][1].shape[1] >= 480
    near = [[np.abs(row.astype(int) - rgb(colour)).max(-1) < 40 for colour in COLOURS[:2]] for row in found[0][1][[-20, -6]]]
    assert near[0][0].mean() > 0.9  # the truth: a all the time
    assert near[1][0].mean() == pytest.approx(0.5, abs=0.05)  # 0.15 of 0.30 seconds
    assert near[1][1].mean() == pytest.approx(0.5, abs=0.05)


def test_a_video_that_cannot_be_finished_leaves_the_old_file(tmp_path: Path) -> None:
    def broken():
        yield from moving(3)
        raise DataError("the camera is gone")

    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(DataError, match="the camera is gone"):
        annotated_video.write(path, broken(), ["a"], [0.0])
    with pytest.raises(DataError, match="expected frames to write, got none"):
        annotated_video.write(path, [], ["a"], [0.0])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unequal_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="predicted 2, truth 1"):
        timeline.draw(tmp_path / "a.png", ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one step"):
        timeline.draw(tmp_path / "a.png", [])
    with pytest.raises(ValueError, match="one label for each of 2 pieces, got 1"):
        coloured_text.draw(tmp_path / "a.png", "ab", ["a"])
    with pytest.raises(ValueError, match=r"ends in .html or .png, got 'a.gif'"):
        coloured_text.draw(tmp_path / "a.gif", "a", ["a"])
    with pytest.raises(ValueError, match=r"2 x 2 labels \(true, predicted\), got \(3, 3\)"):
        confusion.draw(tmp_path / "a.png", ["a", "b"], np.ones((3, 3)))
    with pytest.raises(ValueError, match="labels 2, times 1"):
        annotated_video.write(tmp_path / "a.mp4", moving(1), ["a", "b"], [0.0])
    assert not list(tmp_path.iterdir())
