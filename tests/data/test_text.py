"""Text is found, read in pieces, laid out on disk and cut into streams without losing or repeating anything."""

from pathlib import Path

import numpy as np
import pytest

from unrolled.data import text, tokenizers
from unrolled.errors import DataError, RunError


def test_folders_globs_and_files_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "sub" / "b.txt").write_text("b")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "picture.bin").write_bytes(b"\x89\0\0")
    names = lambda *patterns: [Path(s.path).name for s in text.find([str(p) for p in patterns])]  # noqa: E731
    assert names(tmp_path) == ["a.txt", "b.txt"]
    assert names(tmp_path / "**" / "*.txt") == ["a.txt", "b.txt"]
    assert names(tmp_path / "sub" / "b.txt", tmp_path / "a.txt") == ["b.txt", "a.txt"]


def test_standard_input_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("héllo".encode())))
    (source,) = text.find(["-"])
    assert list(source.text()) == list(source.text()) == ["héllo"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch\.txt: no such file or folder"):
        text.find([str(tmp_path / "nosuch.txt")])
    with pytest.raises(DataError, match="expected text to learn from, got none"):
        text.find([])


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"a folder without text \(1 files, none of them text\)"):
        text.find([str(tmp_path)])


def test_a_binary_file_is_pointed_to_the_byte_unit(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\0\0")
    with pytest.raises(DataError, match=r"picture\.png: expected text, got a binary file.*--unit byte"):
        text.find([str(path)])
    assert len(text.find([str(path)], binary=True)) == 1


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100])
def test_pieces_join_to_the_whole_text_wherever_they_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffgrüße\n€𝄞 zeile zwei\n\nende".encode())
    assert "".join(text.Source(str(path)).text()) == "grüße\n€𝄞 zeile zwei\n\nende"


@pytest.mark.parametrize("piece", [1, 2, 5, 100])
@pytest.mark.parametrize(("content", "offset"), [(b"abc\xffdef", 3), ("aé€".encode() + b"\xe2\x82", 6), (b"ab\xc3(", 2)])
def test_invalid_utf8_is_named_with_its_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, offset: int, piece: int
) -> None:
    monkeypatch.setattr(text, "PIECE", piece)
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.txt: expected UTF-8 text, got an invalid byte at offset {offset}\."):
        list(text.Source(str(path)).text())


def test_tokens_on_disk_are_the_texts_tokens(tmp_path: Path) -> None:
    for name, content in {"a": "abba", "b": "cab\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    sources = text.find([str(tmp_path)])
    tokenizer = tokenizers.learn("char", sources, 8000)
    facts = text.write_tokens(sources, tokenizer, tmp_path)
    tokens = text.open_tokens(tmp_path)
    assert isinstance(tokens, np.memmap)
    assert facts.count == len(tokens) == 10
    assert [int(i) for i in np.flatnonzero(tokens == tokenizer.end)] == [4, 9]
    assert tokenizer.decode(tokens.tolist()) == "abbacab\n"
    (tmp_path / text.TOKENS).write_bytes(b"\2\3")
    with pytest.raises(RunError, match="expected 10 tokens, got 2"):
        text.open_tokens(tmp_path)


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    sources = text.find([str(tmp_path / "empty.txt")])
    with pytest.raises(DataError, match=r"empty\.txt: expected text, got nothing"):
        text.write_tokens(sources, tokenizers.ByteTokenizer(False), tmp_path)


class TestStreams:
    """Chunk n continues chunk n - 1, stream by stream."""

    def test_each_stream_is_contiguous_and_its_own(self) -> None:
        tokens = np.arange(1000)
        streams = text.Streams(tokens, batch_size=3, k1=10, seed=0)
        rows = [streams.chunk(n, 10)[0] for n in range(streams.chunks)]
        for b in range(3):
            read = np.concatenate([row[b, :-1] for row in rows])
            assert (np.diff(read) == 1).all()
            assert read[0] == b * 333
            assert read[-1] < (b + 1) * 333
        assert all((row[:, 1:] == row[:, :-1] + 1).all() for row in rows)

    @pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 10), (4, 3), (5, 6)])
    def test_windows_start_where_the_one_before_says(self, k1: int, k2: int) -> None:
        streams = text.Streams(np.arange(200), batch_size=2, k1=k1, seed=0)
        at = 0  # where the carried state stands
        for n in range(2 * streams.chunks):
            tokens, skip, advance, fresh = streams.chunk(n, k2)
            assert fresh == (n % streams.chunks == 0)
            first = int(tokens[0, 0])
            if not fresh:
                assert first == at
            at = first + skip + advance
            steps = tokens.shape[1] - 1
            assert steps - skip <= k2
            assert steps - skip == k2 or n % streams.chunks < -(-k2 // k1)

    def test_epochs_start_at_offsets_that_the_seed_decides(self) -> None:
        make = lambda seed: text.Streams(np.arange(1000), batch_size=2, k1=50, seed=seed)  # noqa: E731
        offsets = lambda streams: [int(streams.chunk(e * streams.chunks, 50)[0][0, 0]) for e in range(5)]  # noqa: E731
        assert offsets(make(1)) == offsets(make(1))
        assert offsets(make(1)) != offsets(make(2))
        assert len(set(offsets(make(1)))) > 1

    def test_too_little_text_says_how_much_is_needed(self) -> None:
        text.Streams(np.arange(4 * 19 + 1), batch_size=4, k1=10, seed=0)
        with pytest.raises(DataError, match=r"need 77 tokens, got 76"):
            text.Streams(np.arange(4 * 19), batch_size=4, k1=10, seed=0)
