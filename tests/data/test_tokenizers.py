"""Text becomes ids and ids become the same text."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unrolled.data import tokenizers
from unrolled.data.bpe import LONGEST_RUN
from unrolled.data.sources import Source
from unrolled.errors import DataError, RunError

TEXT = "The quick brown fox, the lazy dog.\nIt's a well-known <unk> naïve café ☕ 𝄞!\n" * 3


def learned(unit: str, text: str = TEXT, size: int = 300) -> tokenizers.Tokenizer:
    return tokenizers.learn(unit, [Source("text", text.encode())], size)


@pytest.mark.parametrize("unit", ["char", "byte", "bpe"])
def test_decoding_gives_the_text_back(unit: str) -> None:
    tokenizer = learned(unit)
    assert tokenizer.decode(tokenizer.encode(TEXT).tolist()) == TEXT


@pytest.mark.parametrize("unit", ["byte", "bpe"])
@given(text=st.text())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bytes_and_bpe_give_any_text_back(unit: str, text: str) -> None:
    tokenizer = ANY_TEXT[unit]
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


ANY_TEXT = {unit: learned(unit) for unit in ("byte", "bpe")}


def test_bpe_splits_long_runs_without_spaces() -> None:
    """Its time grows with the square of their length: a megabyte of DNA would take minutes."""
    text = "ACGT" * 1000 + " and a sentence"
    tokenizer = learned("bpe", text, 400)
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert max(len(tokenizer.decode([i])) for i in ids) == LONGEST_RUN


def test_words_are_words_signs_marks_and_newlines() -> None:
    tokenizer = learned("word")
    ids = tokenizer.encode("It's a well-known <unk> fox.\n").tolist()
    assert len(ids) == 7
    assert tokenizer.unknown not in ids
    assert tokenizer.decode(ids).startswith("It's a well-known <unk> fox.")
    assert tokenizer.encode("zebra").tolist() == [tokenizer.unknown]


CHAT = "<|user|>\nhi there<|end|>\n<|assistant|>\nhello <|unknown|> to you <|end|>\n <|end|>" * 50


@pytest.mark.parametrize("unit", ["char", "byte", "word", "bpe"])
@pytest.mark.parametrize("saved", [False, True])
def test_text_that_reads_like_a_special_token_is_text(unit: str, saved: bool, tmp_path: Path) -> None:
    tokenizer = learned(unit, CHAT)
    if saved:
        tokenizer.save(tmp_path)
        tokenizer = tokenizers.load(tmp_path)
    ids = tokenizer.encode(CHAT)
    assert not {tokenizer.unknown, tokenizer.end} & set(ids.tolist())
    assert ids.max() < tokenizer.size
    decoded = tokenizer.decode(ids.tolist())
    if unit == "word":  # spaces are not kept
        assert decoded.split() == CHAT.replace("<|", " <|").replace("|>", "|> ").split()
    else:
        assert decoded == CHAT
        counts = tokenizer.characters_per_token()
        assert counts is not None
        assert counts[ids].sum() == len(CHAT)


def test_line_ends_of_every_system_are_one_token_among_words() -> None:
    tokenizer = learned("word", "one two\nthree\n")
    wanted = tokenizer.encode("one two\nthree\n").tolist()
    assert len(wanted) == 5
    for end in ("\r\n", "\r"):
        assert tokenizer.encode(f"one two{end}three{end}").tolist() == wanted


@pytest.mark.parametrize(
    "text", ["किताब पढ़ता लड़का", "قِطَّةٌ سَوْداء", "cafe\u0301 re\u0301sume\u0301", "می\u200cشود", "நாய் ஓடுகிறது"]
)
def test_words_keep_their_combining_marks(text: str) -> None:
    tokenizer = learned("word", text)
    ids = tokenizer.encode(text).tolist()
    assert len(ids) == len(text.split())
    assert tokenizer.decode(ids) == text


def test_scripts_without_spaces_have_a_word_for_each_character() -> None:
    tokenizer = learned("word", "一只狗。コーヒー a dog")
    assert len(tokenizer.encode("一只狗。")) == 4
    assert tokenizer.decode(tokenizer.encode("一只狗。a dog一只").tolist()) == "一只狗。 a dog 一只"


@pytest.mark.parametrize("unit", ["char", "word", "bpe"])
def test_a_prompt_that_is_not_utf8_is_refused_but_by_bytes(unit: str) -> None:
    prompt = os.fsdecode(b"caf\xe9")
    with pytest.raises(DataError, match=r"the prompt 'caf\\udce9' has bytes that are not UTF-8"):
        learned(unit).encode_prompt(prompt)
    assert learned("byte").encode_prompt(prompt).tolist() == [byte + 2 for byte in b"caf\xe9"]


@pytest.mark.parametrize("unit", ["char", "byte", "word", "bpe"])
def test_a_saved_tokenizer_comes_back(unit: str, tmp_path: Path) -> None:
    tokenizer = learned(unit)
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert (loaded.unit, loaded.size, loaded.documents) == (tokenizer.unit, tokenizer.size, tokenizer.documents)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


@pytest.mark.parametrize("unit", ["char", "byte", "bpe"])
def test_counted_characters_are_the_texts(unit: str) -> None:
    tokenizer = learned(unit)
    counts = tokenizer.characters_per_token()
    assert counts is not None
    assert counts[tokenizer.encode(TEXT)].sum() == len(TEXT)


def test_a_prompt_with_unseen_characters_names_them() -> None:
    with pytest.raises(DataError, match="Leave out 'Z', '§'"):
        learned("char").encode_prompt("aZ§")


def test_several_documents_are_closed_by_end() -> None:
    sources = [Source("a", b"ab"), Source("b", b"ba")]
    assert tokenizers.learn("char", sources, 300).documents
    assert not tokenizers.learn("char", sources[:1], 300).documents


@pytest.mark.parametrize("content", ["", "{}", '{"unit": "bpe", "documents": false, "library": {}}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / tokenizers.FILE).write_text(content)
    with pytest.raises(RunError, match=r"tokenizer\.json: damaged"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("unit", ["word", "bpe"])
def test_of_a_saved_tokenizer_only_the_vocabulary_counts(unit: str, tmp_path: Path) -> None:
    """A pattern that takes for ever, padding to gigabytes, and dropout of merges are not this library's to obey."""
    tokenizer = learned(unit)
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / tokenizers.FILE).read_text())
    for_ever = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": False}
    content["library"] |= {
        "pre_tokenizer": for_ever,
        "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": ""},
    }
    content["library"]["padding"] = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0}
    content["library"]["padding"] |= {"pad_to_multiple_of": None, "pad_token": "x"}
    content["library"]["model"] |= {"dropout": 0.5} if unit == "bpe" else {}
    (tmp_path / tokenizers.FILE).write_text(json.dumps(content))
    text = "a cat " + "a" * 60 + "!"
    assert tokenizers.load(tmp_path).encode(text).tolist() == tokenizer.encode(text).tolist()


def test_tokens_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    tokenizer = learned("bpe")
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / tokenizers.FILE).read_text())
    content["library"]["model"]["vocab"] |= {"a b": tokenizer.size}
    (tmp_path / tokenizers.FILE).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"tokenizer\.json: damaged .*got ' ' in one"):
        tokenizers.load(tmp_path)
