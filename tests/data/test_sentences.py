"""Sentences become ids and come back, before and after saving."""

import json
from pathlib import Path

import pytest

from unrolled.data import sentences
from unrolled.data.sentences import END, START, UNKNOWN, SentenceTokenizer, pad_sentences
from unrolled.errors import DataError, RunError


@pytest.mark.parametrize("unit", ["word", "bpe"])
def test_a_tokenizer_gives_sentences_back_after_saving(tmp_path: Path, unit: str) -> None:
    texts = ["A man's red t-shirt.", "a red dog"]
    SentenceTokenizer.learn(unit, texts, minimum_count=1, vocabulary_size=270).save(tmp_path)
    tokenizer = SentenceTokenizer.load(tmp_path)
    ids = tokenizer.encode("A man's red t-shirt.")
    assert tokenizer.decode([START, *ids, END, *ids]) == "a man's red t-shirt"
    assert max(ids) < tokenizer.size


def test_words_that_are_rare_are_unknown_and_never_written() -> None:
    tokenizer = SentenceTokenizer.learn("word", ["a dog", "a cat"], minimum_count=2)
    assert tokenizer.encode("A dog") == [4, UNKNOWN]
    assert tokenizer.decode([4, UNKNOWN]) == "a"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("किताब पढ़ता लड़का", 3),
        ("বাচ্চা ছেলে", 2),
        ("قِطَّةٌ سَوْداء", 2),
        ("שָׁלוֹם", 1),
        ("cafe\u0301 re\u0301sume\u0301", 2),
        ("நாய் ஓடுகிறது", 2),
        ("一只狗在跑", 5),
        ("コーヒーを飲む", 7),
        ("หมาวิ่ง", 5),
        ("개가 달린다", 2),
        ("2只 dogs", 3),
    ],
)
@pytest.mark.parametrize("unit", ["word", "bpe"])
def test_words_of_every_script_come_back(unit: str, text: str, count: int) -> None:
    tokenizer = SentenceTokenizer.learn(unit, [text], vocabulary_size=300)
    ids = tokenizer.encode(text)
    assert UNKNOWN not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    if unit == "word":
        assert len(ids) == count
    if text[0] != "2":  # where scripts meet a space is put
        assert tokenizer.decode(ids) == text


def test_too_few_sentences_for_a_vocabulary_are_refused_naming_the_setting() -> None:
    with pytest.raises(DataError, match=r"no word occurs 5 times \(minimum_count, --minimum-count\).* 'dog', occurs 2 times"):
        SentenceTokenizer.learn("word", ["one dog", "The dog"], minimum_count=5)


def test_the_vocabulary_of_a_run_of_0_1_still_opens(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(json.dumps({"unit": "word", "content": ["a", "dog"]}))
    assert SentenceTokenizer.load(tmp_path).encode("A dog, a cat.") == [4, 5, 4, UNKNOWN]


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / sentences.FILE).write_text("{")
    with pytest.raises(RunError, match=r"vocabulary\.json: damaged"):
        SentenceTokenizer.load(tmp_path)


def test_a_sentence_that_is_too_long_is_truncated_and_has_no_end() -> None:
    assert pad_sentences([[5, 6], [7], []], longest=2).tolist() == [[START, 5, 6], [START, 7, END], [START, END, 0]]


def test_the_share_of_unknown_tokens_is_over_all_sentences() -> None:
    tokenizer = SentenceTokenizer.learn("word", ["a red dog"])
    assert tokenizer.unknown_share(["a zebra", "zebra", "a red dog"]) == 2 / 6
    assert tokenizer.unknown_share([]) == 0
