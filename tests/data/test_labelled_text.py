"""Text with labels as JSON lines."""

import json
from pathlib import Path

import pytest

from unrolled.data import labelled_text
from unrolled.data.sequences import Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError


def read(tmp_path: Path, *objects: object, multi: bool = False) -> list[Sequence]:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in objects))
    return list(labelled_text.read(Source(str(path)), multi=multi))


def test_spans_label_their_characters_and_o_the_others(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {"text": "if x:", "spans": [[0, 2, "K"], [3, 4, "N"]]})
    assert one.labels == ["K", "K", "O", "N", "O"]


def test_spans_may_overlap_where_there_are_several_labels(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {"text": "abc", "spans": [[0, 2, "x"], [1, 3, "y"]]}, multi=True)
    assert one.labels == [{"x"}, {"x", "y"}, {"y"}]


def test_words_and_labels_of_the_whole_are_read(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path, {"words": ["It", "rains"], "labels": ["P", "V"]}, {"text": "ja", "label": "de"}, {"text": "?"}
    )
    assert (first.inputs, first.labels) == (["It", "rains"], ["P", "V"])
    assert (second.inputs, second.labels, third.labels) == ("ja", "de", None)


def test_plain_text_is_one_sequence(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("one\ntwo")
    (one,) = labelled_text.read(Source(str(tmp_path / "plain.txt")))
    assert (one.inputs, one.labels) == ("one\ntwo", None)


@pytest.mark.parametrize(
    ("spans", "problem"),
    [
        ([[0, 2, "x"], [1, 3, "y"]], r"the span \[1, 3, 'y'\] overlaps the one before, from 0 to 2"),
        ([[1, 2, "x"], [0, 1, "y"]], r"the span \[0, 1, 'y'\] is out of order, behind the one before, from 1 to 2"),
        ([[1, 4, "x"]], r"the span \[1, 4, 'x'\] reaches beyond the text, which has 3 steps"),
        ([[-1, 2, "x"]], "expected spans .start, end, label. with start before end"),
        ([[2, 2, "x"]], "expected spans .start, end, label. with start before end"),
        ([[0, 1]], "expected spans .start, end, label. with start before end"),
        ("x", "expected spans .start, end, label. with start before end"),
    ],
)
def test_impossible_spans_are_refused_with_their_line(tmp_path: Path, spans: object, problem: str) -> None:
    with pytest.raises(DataError, match=f"text.jsonl, line 2: {problem}"):
        read(tmp_path, {"text": "abc", "label": "x"}, {"text": "abc", "spans": spans})


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        ([1], "expected a JSON object"),
        ({"label": "x"}, 'expected "text", a string, or "words"'),
        ({"text": "abc", "labels": ["x"]}, 'expected "labels" to be a list of 3, one for each step, got 1'),
        ({"text": "abc", "label": 3}, "expected a label to be a string, got '3'"),
        ({"text": "a\ud800", "label": "x"}, r"expected characters, got half of a pair, '.ud800'"),
        ({"words": ["a"], "labels": ["\udc00"]}, r"expected characters, got half of a pair, '.udc00'"),
    ],
)
def test_other_objects_are_refused_with_their_line(tmp_path: Path, one: object, problem: str) -> None:
    with pytest.raises(DataError, match=f"text.jsonl, line 1: {problem}"):
        read(tmp_path, one)


def test_characters_that_json_writes_as_pairs_are_one(tmp_path: Path) -> None:
    (one,) = read(tmp_path, {"text": "a\U0001f600b", "spans": [[1, 2, "x"]]})
    assert "ud83d" in (tmp_path / "text.jsonl").read_text()
    assert (one.inputs, one.labels) == ("a\U0001f600b", ["O", "x", "O"])
