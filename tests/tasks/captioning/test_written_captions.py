"""What a captioner writes."""

from pathlib import Path

import pytest
import torch
from tests.tasks.captioning.tiny import F, P, model
from tests.tolerance import assert_same

from unrolled.data.sentences import END, PAD, START, UNKNOWN, SentenceTokenizer
from unrolled.tasks.captioning.generate import Caption, attention_of, generate
from unrolled.tasks.captioning.task import Run


@pytest.mark.parametrize(
    "how", [{"beam": 1}, {"beam": 3}, {"beam": 4, "captions": 3}, {"consensus": 5}, {"temperature": 0.9, "captions": 3}]
)
def test_a_batch_gives_the_captions_of_one_at_a_time(captioner: Path, shapes: Path, how: dict) -> None:
    run = Run(captioner)
    together = list(run.caption(shapes / "images", **how))
    assert len(together) == 16
    for one in together[:5]:
        alone = next(run.caption(one.image, **how))
        assert [caption.text for caption in alone.captions] == [caption.text for caption in one.captions]
        assert len(one.captions) == how.get("captions", 1)


def test_padding_and_unknown_are_never_written() -> None:
    captioner = model(image="initial").float()
    with torch.no_grad():
        captioner.output.bias[[PAD, START, UNKNOWN]] = 50.0  # by far the likeliest, were they allowed
    tokenizer = SentenceTokenizer("word", list("abcdefg"))
    photos = captioner.encode(torch.randn(3, P, F))
    for how in ({"beam": 2}, {"temperature": 1.0, "captions": 4}):
        for captions in generate(captioner, tokenizer, photos, longest=6, **how):
            for caption in captions:
                assert not set(caption.tokens) & {PAD, START, UNKNOWN, END}
                assert len(caption.tokens) <= 6 + 1


def test_it_learns_to_name_what_is_in_the_photos(captioner: Path, shapes: Path) -> None:
    said = {Path(one.image).stem: one.captions[0].text for one in Run(captioner).caption(shapes / "images")}
    right = sum(all(part in said[name] for part in name.split("-")[:2]) for name in said)
    assert right >= 13, said  # of 16: two were kept for validation


@pytest.mark.parametrize("image", ["attention", "initial"])
def test_each_word_that_is_written_has_the_attention_that_it_was_chosen_with(image: str) -> None:
    captioner, tokenizer = model(image=image), SentenceTokenizer("word", list("abcdefg"))
    photo, tokens = captioner.encode(torch.randn(1, P, F)), [5, 8, 4]
    words, weights = attention_of(captioner, tokenizer, photo, Caption("b e a", 0.0, tokens))
    assert words == ["b", "e", "a"]
    expected = captioner(photo, torch.tensor([[START, 5, 8]])).weights
    if image == "initial":
        assert weights is expected is None
    else:
        assert_same(weights, expected[0])
        assert_same(weights.sum(-1), torch.ones(3, dtype=weights.dtype))
    assert attention_of(captioner, tokenizer, photo, Caption("", 0.0, [])) == ([], None)
