"""Text is found where the user says, and read block by block without losing or repeating anything."""

import gzip
import io
import os
import threading
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
    everything = [Path(one.path).name for one in sources.find([str(tmp_path)], binary=True)]
    assert everything == ["a.txt", "picture.bin", "b.txt"]


def test_standard_input_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("héllo".encode())))
    (source,) = sources.find(["-"])
    assert list(source.text()) == list(source.text()) == ["héllo"]


def test_gzip_files_are_read_as_the_text_that_was_packed(tmp_path: Path) -> None:
    packed = gzip.compress("grüße\n€".encode())
    (tmp_path / "t.txt.gz").write_bytes(packed)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"\0\1"))
    assert [list(one.text()) for one in sources.find([str(tmp_path)])] == [["grüße\n", "€"]]  # the other holds no text
    assert b"".join(sources.find([str(tmp_path / "t.txt.gz")], binary=True)[0].blocks()) == packed
    assert list(sources.Source("pipe", packed).text()) == ["grüße\n", "€"]
    (tmp_path / "b.gz").write_bytes(packed[:-9])
    with pytest.raises(DataError, match=r"b\.gz: a damaged gzip file"):
        sources.find([str(tmp_path / "b.gz")])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch\.txt: no such file or folder"):
        sources.find([str(tmp_path / "nosuch.txt")])
    with pytest.raises(DataError, match="expected data, got none"):
        sources.find([])


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"a folder without text \(1 files, none of them text\)"):
        sources.find([str(tmp_path)])


def test_a_binary_file_is_pointed_to_the_byte_unit(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\0\0")
    with pytest.raises(DataError, match=r"picture\.png: expected text, got a binary file.*--unit byte"):
        sources.find([str(path)], byte_unit=True)
    with pytest.raises(DataError, match=r"picture\.png: expected text, got a binary file \(it has zero bytes\)\.$"):
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


@pytest.mark.parametrize("content", [b"", b"h", "grüße\n".encode() * 100_000])
def test_a_named_pipe_is_read_once_and_whole(tmp_path: Path, content: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    (source,) = sources.find([str(pipe)])
    writer.join()
    assert "".join(source.text()) == "".join(source.text()) == content.decode()


def test_a_pipe_to_which_nobody_writes_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sources, "WAIT_FOR_WRITER", 0.1)
    with pytest.raises(DataError, match="pipe: nobody writes to this pipe"):
        sources.find([str(tmp_path / "pipe")])


def test_an_anonymous_pipe_is_read_to_its_end() -> None:
    """What a shell's process substitution names: /dev/fd/63."""
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(b"one\ntwo\n")
    (source,) = sources.find([f"/dev/fd/{reading}"])
    os.close(reading)
    assert list(source.text()) == ["one\ntwo\n"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", r"expected the name of a file or a folder, got an empty one"),
        ("x" * 300, r"xxx\.\.\. \(300 characters\): cannot be read \(File name too long\)"),
        ("a\0b", "cannot be read"),
        ("~nosuchuser/x", "~nosuchuser/x: no such file or folder"),
        ("/dev/zero", "expected a file, a folder or a pipe, got a device"),
    ],
)
def test_names_that_cannot_be_data_are_refused(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        sources.find([name])


def test_standard_input_that_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="expected data on standard input, got none: it is closed"):
        sources.find(["-"])


TEXT = "grüße\nzeile zwei €\n" * 30


@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *[(name, name) for name in ("utf-8", "utf-16", "utf-16-le", "cp1252", "gb18030")],
        *[(name, "auto") for name in ("utf-8", "utf-8-sig", "utf-16", "utf-32")],
        ("utf-8-sig", "utf-8"),
    ],
)
def test_text_is_read_in_its_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str, block: int
) -> None:
    monkeypatch.setattr(sources, "BLOCK", block)
    (tmp_path / "t.txt").write_bytes(TEXT.encode(name))
    (source,) = sources.find([str(tmp_path / "t.txt")], encoding=encoding)
    assert "".join(source.text()) == TEXT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("utf-16", "got UTF-16 text. Add --encoding auto"),
        ("utf-32", "got UTF-32 text. Add --encoding auto"),
        ("utf-16-le", "looks like UTF-16 text without a byte order mark. If it is, add --encoding utf-16-le"),
        ("utf-16-be", "add --encoding utf-16-be"),
    ],
)
def test_text_that_is_not_utf8_is_named_for_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "t.txt").write_bytes("a line of plain text\n".encode(name))
    with pytest.raises(DataError) as caught:
        sources.find([str(tmp_path / "t.txt")])
    assert said in str(caught.value)


def test_a_folder_without_files_is_not_said_to_lack_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder of files, got an empty one"):
        sources.find([str(tmp_path)], binary=True)


def test_files_of_a_folder_that_are_left_out_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("more text", encoding="utf-16")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\0\0")
    left_out: dict[str, str] = {}
    (source,) = sources.find([str(tmp_path)], left_out=left_out)
    assert source.path == str(tmp_path / "a.txt")
    assert [Path(name).name for name in left_out] == ["b.txt", "c.png"]
    line = sources.describe(left_out)
    assert line.startswith("left out 2 files that are not text: ")
    assert "b.txt is UTF-16 text. Add --encoding auto" in line
    assert [Path(one.path).name for one in sources.find([str(tmp_path)], encoding="auto")] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", ["nosuch", "hex", "rot13", ""])
def test_encodings_of_no_text_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an encoding that Python knows"):
        sources.check_encoding(name)


def test_a_part_of_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("text")
    scandir = os.scandir

    def refuse(path: str):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\)"):
        sources.find([str(tmp_path)])
