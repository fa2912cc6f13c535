"""Text is laid out on disk and split into streams without losing or repeating anything."""

import json
from pathlib import Path

import numpy as np
import pytest

from unrolled.data import sources, tokenizers
from unrolled.data.token_streams import SIDECAR, TOKENS, TokenStreams, open_tokens, write_tokens
from unrolled.errors import DataError, RunError


def test_tokens_on_disk_are_the_texts_tokens(tmp_path: Path) -> None:
    for name, content in {"a": "abba", "b": "cab\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    documents = sources.find([str(tmp_path)])
    tokenizer = tokenizers.learn("char", documents, 8000)
    facts = write_tokens(documents, tokenizer, tmp_path)
    tokens = open_tokens(tmp_path, tokenizer.size)
    assert isinstance(tokens, np.memmap)
    assert facts.count == len(tokens) == 10
    assert [int(i) for i in np.flatnonzero(tokens == tokenizer.end)] == [4, 9]
    assert tokenizer.decode(tokens.tolist()) == "abbacab\n"
    (tmp_path / TOKENS).write_bytes(b"\2\3")
    with pytest.raises(RunError, match=r"tokens\.bin: expected 10 bytes \(10 tokens\), got 2"):
        open_tokens(tmp_path, tokenizer.size)


@pytest.mark.parametrize("dtype", ["O", "object", "float32", "int64", "V1", 5])
def test_the_bytes_of_a_token_file_are_never_taken_for_anything_but_small_numbers(tmp_path: Path, dtype: object) -> None:
    (tmp_path / SIDECAR).write_text(json.dumps({"count": 1, "dtype": dtype, "documents": 1}))
    (tmp_path / TOKENS).write_bytes(b"\0" * 8)
    with pytest.raises(RunError, match=r"tokens\.json: damaged \(dtype: Input should be 'uint8', 'uint16' or 'uint32'\)"):
        open_tokens(tmp_path, 300)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    (tmp_path / SIDECAR).write_text('{"count": 3, "dtype": "uint16", "documents": 1}')
    (tmp_path / TOKENS).write_bytes(bytes([1, 0, 7, 0, 2, 1]))
    assert open_tokens(tmp_path, 259).tolist() == [1, 7, 258]
    with pytest.raises(RunError, match=r"expected ids below 258 \(the vocabulary\), got 258"):
        open_tokens(tmp_path, 258)


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    documents = sources.find([str(tmp_path / "empty.txt")])
    with pytest.raises(DataError, match=r"empty\.txt: expected text, got nothing"):
        write_tokens(documents, tokenizers.ByteTokenizer(False), tmp_path)


class TestStreams:
    """Chunk n continues chunk n - 1, stream by stream."""

    def test_each_stream_is_contiguous_and_its_own(self) -> None:
        tokens = np.arange(1000)
        streams = TokenStreams(tokens, batch_size=3, k1=10, seed=0)
        rows = [streams.chunk(n, 10)[0] for n in range(streams.chunks)]
        for b in range(3):
            read = np.concatenate([row[b, :-1] for row in rows])
            assert (np.diff(read) == 1).all()
            assert read[0] == b * 333
            assert read[-1] < (b + 1) * 333
        assert all((row[:, 1:] == row[:, :-1] + 1).all() for row in rows)

    @pytest.mark.parametrize(("k1", "k2"), [(4, 4), (4, 10), (4, 3), (5, 6)])
    def test_windows_start_where_the_one_before_says(self, k1: int, k2: int) -> None:
        streams = TokenStreams(np.arange(200), batch_size=2, k1=k1, seed=0)
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
        make = lambda seed: TokenStreams(np.arange(1000), batch_size=2, k1=50, seed=seed)  # noqa: E731
        offsets = lambda streams: [int(streams.chunk(e * streams.chunks, 50)[0][0, 0]) for e in range(5)]  # noqa: E731
        assert offsets(make(1)) == offsets(make(1))
        assert offsets(make(1)) != offsets(make(2))
        assert len(set(offsets(make(1)))) > 1

    def test_too_little_text_says_how_much_is_needed(self) -> None:
        TokenStreams(np.arange(4 * 19 + 1), batch_size=4, k1=10, seed=0)
        with pytest.raises(DataError, match=r"need 77 tokens, got 76"):
            TokenStreams(np.arange(4 * 19), batch_size=4, k1=10, seed=0)
