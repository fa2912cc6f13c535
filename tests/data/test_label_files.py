"""Labels are found beside their files, by header or by position, and what does not fit is named by file and row."""

from pathlib import Path

import numpy as np
import pytest

from unrolled.data import label_files
from unrolled.data.label_files import LabelFile
from unrolled.data.sequences import Sequence
from unrolled.errors import DataError


def table(folder: Path, text: str) -> str:
    """Of labels, beside files a.wav and b.wav."""
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"")
    (folder / "labels.csv").write_text(text)
    return str(folder / "labels.csv")


def steps(count: int, path: str = "a.wav") -> Sequence:
    """As many steps, five a second."""
    return Sequence(path, np.zeros((count, 2), np.float32), None, np.arange(count) / 5)


def labels_of_a(path: str, per_step: bool = True, multi: bool = False, label: str | None = None) -> list[Sequence]:
    labels = LabelFile(path, multi, label)
    return list(labels.labelled(steps(5), next(iter(labels)), per_step))


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.wav,one\nb.wav,two\n",
        "a.wav,one\nb.wav,two\n",
        "label;note;filename\none;x;a.wav\n\ntwo;y;b.wav\n",
        '\ufeffpath\tclass\n"a.wav"\tone\nb.wav\ttwo\n',
    ],
)
def test_a_label_for_the_whole_is_found_by_header_or_position(tmp_path: Path, text: str) -> None:
    labels = LabelFile(table(tmp_path, text))
    assert list(labels) == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    for path, expected in zip(labels, ["one", "two"], strict=True):
        assert [one.labels for one in labels.labelled(steps(3), path)] == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "file,start,end,label\na.wav,0.6,1,y\na.wav,0.1,0.5,x\n",
        "a.wav,0.1,0.5,x\na.wav,0.6,1,y\n",
        "end,label,onset,clip\n.5,x,.1,a.wav\n1,y,.6,a.wav\n",
    ],
)
def test_segments_in_any_order_label_the_steps_that_begin_in_them(tmp_path: Path, text: str) -> None:
    (sequence,) = labels_of_a(table(tmp_path, text))
    assert sequence.labels == ["", "x", "x", "y", "y"]


def test_without_steps_each_segment_is_a_sequence(tmp_path: Path) -> None:
    first, second = labels_of_a(table(tmp_path, "a.wav,0.1,0.5,x\na.wav,0.6,1,y\n"), per_step=False)
    assert (first.labels, len(first), second.labels, len(second)) == ("x", 2, "y", 2)
    assert first.name == "a.wav, 0.1 to 0.5 s"


def test_several_labels_at_once_overlap(tmp_path: Path) -> None:
    (sequence,) = labels_of_a(table(tmp_path, "a.wav,0,0.5,x\na.wav,0.4,1,y|z\n"), multi=True)
    assert sequence.labels == [{"x"}, {"x"}, {"x", "y", "z"}, {"y", "z"}, {"y", "z"}]
    (whole,) = labels_of_a(table(tmp_path, "a.wav,x\na.wav,y\n"), multi=True)
    assert whole.labels == {"x", "y"}


def test_the_column_of_labels_can_be_named_or_numbered(tmp_path: Path) -> None:
    path = table(tmp_path, "file,label,mood\na.wav,one,good\n")
    assert labels_of_a(path, label="mood")[0].labels == "good"
    assert labels_of_a(path, label="3")[0].labels == "good"
    with pytest.raises(DataError, match="expected a column of labels called 'colour', got file, label, mood"):
        LabelFile(path, label="colour")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a.wav,0,1,x\na.wav,0.8,1,y\n",
            r"rows 1 and 2: expected segments of a.wav that do not overlap, got x until 1 s and y from 0.8 s",
        ),
        ("a.wav,1,0.5,x\n", "row 1: expected a segment that begins at 0 s or later and ends after that, got 1 to 0.5 s"),
        ("a.wav,-1,0.5,x\n", "row 1: expected a segment that begins at 0 s"),
        ("file,start,end,label\na.wav,0,soon,x\n", "row 2: expected a time in seconds, got 'soon'"),
        ("file,start,end,label\na.wav,0,nan,x\n", "row 2: expected a time in seconds, got 'nan'"),
        ("a.wav,0.5,3,x\n", r"row 1: expected a segment inside a.wav \(1.00 s\), got 0.5 to 3 s"),
        ("a.wav,1,1.1,x\n", r"row 1: expected a segment inside a.wav \(1.00 s\), got 1 to 1.1 s"),
        ("a.wav,one\na.wav,two\n", "rows 1 and 2: expected one label for a.wav, got two"),
        ("a.wav,one\nb.wav\n", "row 2: expected 2 columns, got 1"),
        ("a.wav,\n", "row 1: expected a label, got nothing"),
        (",one\n", "row 1: expected the name of a file, got nothing"),
        ("file,label\nc.wav,one\n", "row 2: no such file"),
        ("file,start,label\na.wav,1,x\n", "expected both start and end"),
        ("a,b,c\n", "row 1: got 3 columns: a, b, c. Expected are the columns file, label or"),
        ("", "expected labels, got no row"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        labels_of_a(table(tmp_path, text))
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_files_is_told_from_a_table_of_numbers(tmp_path: Path) -> None:
    assert label_files.lists_files(table(tmp_path, "file,label\na.wav,1\n"), (".wav",))
    assert label_files.lists_files(table(tmp_path, "a.wav,1\n"), ())
    assert label_files.lists_files(table(tmp_path, "gone.wav,1\n"), (".wav",))
    assert not label_files.lists_files(table(tmp_path, "x,label\n1,2\n"), (".wav",))
    assert not label_files.lists_files(table(tmp_path, "1,2\n3,4\n"), (".wav",))
    assert not label_files.lists_files(str(tmp_path / "none.csv"), (".wav",))


def test_a_folder_names_what_is_in_it() -> None:
    assert label_files.from_folders(steps(1), "digits/seven/01.wav").labels == "seven"
    assert label_files.from_folders(steps(1), "chords/C|E/01.wav", multi=True).labels == {"C", "E"}


def test_segments_need_a_clock_that_goes_forward(tmp_path: Path) -> None:
    labels = LabelFile(table(tmp_path, "a.wav,0,1,x\n"))
    back = Sequence("a.wav", np.zeros((3, 1), np.float32), None, np.array([0, 0.4, 0.2]))
    with pytest.raises(DataError, match=r"a.wav: expected a clock that goes forward, got 0.2 s behind 0.4 s"):
        list(labels.labelled(back, next(iter(labels))))


def test_a_column_numbered_in_no_digits_is_a_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a column of labels called '²'"):
        LabelFile(table(tmp_path, "file,label\na.wav,one\n"), label="²")
