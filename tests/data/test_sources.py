"""Text is found where the user says, and read block by block without losing or repeating anything."""

from pathlib import Path

import pytest

from unrolled.data import sources
from unrolled.errors import DataError


def test_folders_globs_and_files_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "sub" / "b.txt").write_text("b")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "picture.bin").write_bytes(b"\x89\0\0")
    names = lambda *patterns: [Path(s.path).name for s in sources.find([str(p) for p in patterns])]  # noqa: E731
    assert names(tmp_path) == ["a.txt", "b.txt"]
    assert names(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt"]
    assert names(tmp_path / "sub" / "b.txt", tmp_path / "a.txt") == ["b.txt", "a.txt"]


def test_standard_input_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("héllo".encode())))
    (source,) = sources.find(["-"])
    assert list(source.text()) == list(source.text()) == ["héllo"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch\.txt: no such file or folder"):
        sources.find([str(tmp_path / "nosuch.txt")])
    with pytest.raises(DataError, match="expected text to learn from, got none"):
        sources.find([])


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"a folder without text \(1 files, none of them text\)"):
        sources.find([str(tmp_path)])


def test_a_binary_file_is_pointed_to_the_byte_unit(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\0\0")
    with pytest.raises(DataError, match=r"picture\.png: expected text, got a binary file.*--unit byte"):
        sources.find([str(path)])
    assert len(sources.find([str(path)], binary=True)) == 1


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_blocks_join_to_the_whole_text_wherever_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffgrüße\n€𝄞 zeile zwei\n\nende".encode())
    assert "".join(sources.Source(str(path)).text()) == "grüße\n€𝄞 zeile zwei\n\nende"


@pytest.mark.parametrize("block", [1, 2, 5, 100])
@pytest.mark.parametrize(("content", "offset"), [(b"abc\xffdef", 3), ("aé€".encode() + b"\xe2\x82", 6), (b"ab\xc3(", 2)])
def test_invalid_utf8_is_named_with_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, offset: int, block: int
) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.txt: expected UTF-8 text, got an invalid byte at offset {offset}\."):
        list(sources.Source(str(path)).text())
