"""Sentences become ids and come back, before and after saving."""

import json
from pathlib import Path

import numpy as np
import pytest

from unrolled.data import sentences
from unrolled.data.sentences import END, START, UNKNOWN, SentenceTokenizer, pad_sentences, undo_merges
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


TEXTS = ["the lowest of the lower newest widest", "wider and newer, lower and lowest: größer", "the newest of the widest"]


def merged_ids(size: int = 330) -> tuple[SentenceTokenizer, np.ndarray]:
    """A tokenizer of TEXTS, and what they all are in it."""
    tokenizer = SentenceTokenizer.learn("bpe", TEXTS * 3, vocabulary_size=size, style="text")
    return tokenizer, np.array(tokenizer.encode(" ".join(TEXTS)), np.int32)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_text_with_merges_undone_is_the_same_text_in_more_pieces(share: float) -> None:
    tokenizer, ids = merged_ids()
    parts = tokenizer.parts()
    undone = [undo_merges(ids, parts, share, np.random.default_rng(seed)) for seed in range(20)]
    assert {tokenizer.decode(one) for one in undone} == {tokenizer.decode(ids)} == {" ".join(TEXTS)}
    assert max(map(len, undone)) > len(ids)
    assert len({tuple(one.tolist()) for one in undone}) > 10


def test_a_merge_has_two_parts_that_spell_it_and_what_was_not_merged_has_none() -> None:
    tokenizer, _ = merged_ids()
    parts = tokenizer.parts()
    made = np.flatnonzero(parts[:, 0] >= 0)
    assert len(made) == tokenizer.size - 256 - len(sentences.SPECIALS)
    names = {number: name for name, number in tokenizer._library.get_vocab().items()}
    assert all(names[token] == names[parts[token, 0]] + names[parts[token, 1]] for token in made)
    assert (parts[: len(sentences.SPECIALS)] == -1).all()


def test_as_many_merges_are_undone_as_asked_the_latest_first() -> None:
    """Of tokens each made by one merge of two single ones, the share is that of tokens; of deeper ones, parts are undone only
    where the whole is."""
    parts = np.array([[-1, -1], [-1, -1], [0, 1], [2, 0]])
    flat = undo_merges(np.full(4000, 2), parts, 0.3, np.random.default_rng(0))
    assert (len(flat) - 4000) / 4000 == pytest.approx(0.3, abs=0.03)  # four standard errors
    deep = undo_merges(np.full(4000, 3), parts, 0.3, np.random.default_rng(1))
    counts = np.bincount(deep, minlength=4)
    assert (4000 - counts[3]) / 4000 == pytest.approx(0.3, abs=0.03)
    assert counts[1] / (counts[1] + counts[2]) == pytest.approx(0.3, abs=0.06)  # of 1,200
    assert counts[1] + counts[2] + counts[3] == 4000


def test_no_share_and_single_bytes_change_nothing() -> None:
    tokenizer, ids = merged_ids()
    parts = tokenizer.parts()
    assert undo_merges(ids, parts, 0.0, np.random.default_rng(0)).tolist() == ids.tolist()
    nothing = np.array([START, END, UNKNOWN, *range(4, 260)])
    assert undo_merges(nothing, np.full_like(parts, -1), 0.9, np.random.default_rng(0)).tolist() == nothing.tolist()
    assert undo_merges(ids[:0], parts, 0.9, np.random.default_rng(0)).tolist() == []


def test_merges_saved_as_older_libraries_wrote_them_are_read(tmp_path: Path) -> None:
    tokenizer, ids = merged_ids()
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / sentences.FILE).read_text())
    saved["content"]["model"]["merges"] = [" ".join(pair) for pair in saved["content"]["model"]["merges"]]
    (tmp_path / sentences.FILE).write_text(json.dumps(saved))
    older = SentenceTokenizer.load(tmp_path)
    assert older.encode(" ".join(TEXTS)) == ids.tolist()
    assert older.parts().tolist() == tokenizer.parts().tolist()
