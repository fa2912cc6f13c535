"""Pairs of sentences from the files that people have, and what is said of those that do not belong together."""

import gzip
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from unrolled.data import sources
from unrolled.data.pairs import Pairs
from unrolled.errors import DataError

PAIRS = [("a dog", "ein Hund"), ("", "nichts"), ("two\x0bcats\x85here", "zwei  Katzen")]
"""One has an empty side, one has signs that some take for the ends of lines."""


def written(folder: Path, pairs=PAIRS, end: str = "\n", names: tuple[str, str] = ("a.en", "a.de")) -> list[str]:
    for name, side in zip(names, zip(*pairs, strict=True), strict=True):
        (folder / name).write_bytes("".join(line + end for line in side).encode())
    return [str(folder / name) for name in names]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_n_of_one_file_belongs_to_line_n_of_the_other(tmp_path: Path, end: str) -> None:
    pairs = Pairs(written(tmp_path, end=end))
    assert list(pairs) == PAIRS
    assert list(pairs) == PAIRS  # as often as one likes


def test_the_last_line_needs_no_end_and_lines_may_be_longer_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 5)
    paths = written(tmp_path, [("one two three four", "eins zwei drei vier"), ("é", "ü")])
    Path(paths[0]).write_bytes(Path(paths[0]).read_bytes().removesuffix(b"\n"))
    assert list(Pairs(paths)) == [("one two three four", "eins zwei drei vier"), ("é", "ü")]


def test_a_table_has_source_and_target_in_its_first_columns(tmp_path: Path) -> None:
    table = tmp_path / "pairs.tsv"
    table.write_text("a dog\tein Hund\tCC-BY\n\n\tnichts\n")
    assert list(Pairs([str(table)])) == [("a dog", "ein Hund"), ("", "nichts")]
    table.write_text("a dog\tein Hund\na cat, eine Katze\n")
    with pytest.raises(DataError, match=r"pairs\.tsv, line 2: expected a tab between source and target, got none\. Give two"):
        list(Pairs([str(table)]))


def test_packed_files_are_unpacked_whatever_their_name(tmp_path: Path) -> None:
    paths = written(tmp_path)
    packed = gzip.compress(Path(paths[0]).read_bytes())
    Path(paths[0]).write_bytes(packed)
    assert list(Pairs(paths)) == PAIRS
    Path(paths[0]).write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"a\.en: a damaged gzip file"):
        list(Pairs(paths))


def test_files_of_different_length_are_refused_with_both_numbers(tmp_path: Path) -> None:
    paths = written(tmp_path)
    with open(paths[1], "a") as file:
        file.write("mehr\n" * 1200)
    expected = rf"as many lines in both files, got 3 in {paths[0]} and 1,203 in {paths[1]}\. Line n of one"
    with pytest.raises(DataError, match=expected):
        list(Pairs(paths))
    with pytest.raises(DataError, match=r"got 1,203 in .*a\.de and 3 in .*a\.en"):
        list(Pairs(paths[::-1]))


def test_one_file_is_not_source_and_target(tmp_path: Path) -> None:
    path = Path(written(tmp_path)[0])
    os.symlink(path, tmp_path / "linked.en")
    for other in (path, tmp_path / "linked.en", tmp_path / "." / path.name):
        with pytest.raises(DataError, match=r"source and target are the same file, .*a\.en"):
            Pairs([str(path), str(other)])
    with pytest.raises(DataError, match="the same file, -"):
        Pairs(["-", "-"])


@pytest.mark.parametrize("count", [0, 3])
def test_it_takes_one_file_or_two(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"in one file or in two, got {count} files.*Give two files, SOURCE TARGET, or one"):
        Pairs([str(tmp_path / str(n)) for n in range(count)])


@pytest.mark.parametrize(
    ("content", "said"), [(bytes(range(200)), "got a binary file"), (b"a\xe9\nb\nc\n", "got an invalid byte at offset 1")]
)
def test_what_is_no_text_is_named_and_nothing_advised_that_there_is_not(tmp_path: Path, content: bytes, said: str) -> None:
    paths = written(tmp_path)
    Path(paths[1]).write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.de: expected (UTF-8 )?text, {said}") as told:
        list(Pairs(paths))
    assert "--unit byte" not in str(told.value)


def test_an_encoding_may_be_named(tmp_path: Path) -> None:
    paths = written(tmp_path)
    for path in paths:
        Path(path).write_bytes(Path(path).read_text().encode("utf-16"))
    assert list(Pairs(paths, "utf-16")) == list(Pairs(paths, "auto"))
    with pytest.raises(DataError, match=r"UTF-16 text\. Add --encoding auto"):
        Pairs(paths)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)[0]
    for name, said in (
        (tmp_path, "got a folder"),
        (tmp_path / "none.de", "there is none"),
        (tmp_path / "*.de", "there is none"),
    ):
        with pytest.raises(DataError, match=f"expected a file of sentences, {said}"):
            Pairs([path, str(name)])


def test_one_side_or_a_table_may_come_by_standard_input_and_is_gone_through_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(content: str) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))

    given("a dog\tein Hund\n")
    pairs = Pairs(["-"])
    assert list(pairs) == list(pairs) == [("a dog", "ein Hund")]
    given("x\ny\n")
    with pytest.raises(DataError, match=r"got 3 in .*a\.en and 2 in standard input"):
        list(Pairs([written(tmp_path)[0], "-"]))
