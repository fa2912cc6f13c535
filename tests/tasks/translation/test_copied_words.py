"""Unknown words of a translation are those of the source that were attended to."""

import torch

from unrolled.data.sentences import UNKNOWN, SentenceTokenizer
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.data import Vocabularies
from unrolled.tasks.translation.generate import generate
from unrolled.tasks.translation.model import build


def test_words_beyond_the_longest_length_are_not_copied() -> None:
    vocabularies = Vocabularies(*(SentenceTokenizer("word", words, "text") for words in (["read"], ["written"])))
    longest, sentence = 3, "one two three four five"
    for seed in range(5):
        torch.manual_seed(seed)
        model = build(Config(hidden_size=4), *(one.size for one in vocabularies)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=3)
            model.output.bias[UNKNOWN] += 100
        text = generate(model, vocabularies, [sentence, "one two three four five six"], longest=longest, beam=1)[0][0].text
        assert set(text.split()) <= {"one", "two", "three"}, text
