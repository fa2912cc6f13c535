"""Scores of captions are those of the reference implementation, whose tokenizer needs Java; its numbers are in captions/."""

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.errors import DataError
from unrolled.metrics import CiderReward, caption_scores, words

REFERENCE = json.loads((Path(__file__).parent / "captions" / "reference.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("image", REFERENCE["tokens"])
def test_words_are_those_of_the_reference_tokenizer(image: str) -> None:
    captions = [REFERENCE["candidates"][image], *REFERENCE["references"][image]]
    assert [" ".join(words(caption)) for caption in captions] == REFERENCE["tokens"][image]


def test_scores_are_those_of_the_reference_implementation(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocoevalcap")
    scores, expected = caption_scores(REFERENCE["candidates"], REFERENCE["references"]), REFERENCE["scores"]
    assert scores.keys() == expected.keys()
    for name, score in expected.items():
        assert_same(torch.tensor(scores[name], dtype=torch.float64), torch.tensor(score, dtype=torch.float64))
    assert capsys.readouterr().out == ""  # the package prints what it counts unless it is told not to


def test_a_perfect_caption_scores_one() -> None:
    pytest.importorskip("pycocoevalcap")
    said = {"a": "a brown dog runs far away", "b": "two men sail a small boat"}
    scores = caption_scores(said, {image: [caption] for image, caption in said.items()})
    assert scores == pytest.approx({"bleu_1": 1, "bleu_2": 1, "bleu_3": 1, "bleu_4": 1, "rouge_l": 1, "cider": 10})


def test_images_without_references_are_named() -> None:
    pytest.importorskip("pycocoevalcap")
    with pytest.raises(DataError, match="got none for 1 of 2, the first 'b'"):
        caption_scores({"a": "a dog", "b": "a cat"}, {"a": ["a dog"], "b": []})
    with pytest.raises(DataError, match="expected captions to score, got none"):
        caption_scores({}, {})


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(DataError, match=r"pip install 'unrolled\[captioning\]'"):
        caption_scores({"a": "a dog"}, {"a": ["a dog"]})


def test_the_reward_is_the_reference_implementations_cider_on_words() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rng = random.Random(0)
    captions = [[[rng.randrange(9) for _ in range(rng.randrange(1, 9))] for _ in range(rng.randrange(1, 5))] for _ in range(7)]
    samples = [[rng.randrange(11) for _ in range(rng.randrange(0, 9))] for _ in captions]
    captions += [[[1, 2, 3, 4, 5, 6, 7]], [[3]], [[4, 5]]]  # so short, or of such length, that how it is counted shows
    samples += [[7], [3, 1, 2, 3, 4, 5], [4]]
    captions += [[[1, 2, 3, 4, 8, 5], [0, 2, 3, 4, 8]]]  # pairs, triples and quadruples of words in common
    samples += [[0, 2, 3, 4, 8, 6]]

    def as_text(ids: list[int]) -> str:
        return " ".join(f"w{id_}" for id_ in ids)

    _, expected = cider.Cider().compute_score(
        {image: [as_text(caption) for caption in those] for image, those in enumerate(captions)},
        {image: [as_text(sample)] for image, sample in enumerate(samples)},
    )
    assert max(expected) > 0.1
    assert_same(CiderReward(captions).reward(range(11), samples), torch.tensor(expected))


def test_the_reward_takes_many_samples_of_an_image_in_any_order() -> None:
    reward = CiderReward([[[1, 2, 3, 4]], [[5, 6, 7], [5, 6, 8]], [[9]]])
    one_by_one = [float(reward.reward([image], [sample])) for image, sample in [(1, [5, 6]), (0, [1, 2, 3, 4]), (1, [5, 6, 7])]]
    assert reward.reward([1, 0, 1], [[5, 6], [1, 2, 3, 4], [5, 6, 7]]).tolist() == one_by_one


def test_the_reward_wants_captions_for_every_image() -> None:
    with pytest.raises(ValueError, match="got 2 images, one without"):
        CiderReward([[[1]], []])


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("किताब पढ़ता लड़का।", ["किताब", "पढ़ता", "लड़का"]),
        ("Cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("一只狗，在跑。", ["一", "只", "狗", "在", "跑"]),
    ],
)
def test_words_of_other_scripts_are_whole(caption: str, wanted: list[str]) -> None:
    assert words(caption) == wanted
