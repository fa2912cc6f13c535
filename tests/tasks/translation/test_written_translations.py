"""What a translator writes."""

from pathlib import Path

import pytest
import torch
from tests.tasks.translation.tiny import model
from torch import nn

from unrolled import tasks
from unrolled.data.sentences import END, PAD, START, UNKNOWN, SentenceTokenizer
from unrolled.decoder import Memory
from unrolled.ensemble import DecoderOutput
from unrolled.errors import DataError
from unrolled.tasks.translation.data import Vocabularies, pad
from unrolled.tasks.translation.generate import attention_of, generate

WORDS = Vocabularies(SentenceTokenizer("word", list("abcdefg"), "text"), SentenceTokenizer("word", list("rstuvwxyz"), "text"))
LINES = ["six", "", "one two one", "three", "two unheard one", "   ", "two two", "one one one one one one", "six six"]


@pytest.mark.parametrize(
    "how", [{"beam": 1}, {"beam": 4}, {"beam": 3, "n_best": 3}, {"beam": 3, "coverage": 0.4, "length_power": 0.6}]
)
def test_a_batch_gives_the_translations_of_one_at_a_time_in_their_order(translator: Path, how: dict) -> None:
    run = tasks.load(translator)
    together = list(run.translate(LINES * 12, **how))  # more than are translated at once
    assert [one.source for one in together] == LINES * 12
    for one, other in zip(together[: len(LINES)], together[-len(LINES) :], strict=True):
        alone = next(run.translate(one.source, **how))
        for several in (one, other):
            assert [each.text for each in several.translations] == [each.text for each in alone.translations]
            assert [each.score for each in several.translations] == pytest.approx(
                [each.score for each in alone.translations], abs=1e-4
            )
    assert [len(one.translations) for one in together[:5]] == [how.get("n_best", 1), 1, *[how.get("n_best", 1)] * 3]


def test_it_learns_to_translate_and_an_empty_line_stays_empty(translator: Path) -> None:
    run = tasks.load(translator)
    said = [one.translations[0].text for one in run.translate(["six", "", "one two one", "three", "\t", "two two"])]
    assert said == ["sechs", "", "eins zwei eins", "drei", "", "zwei zwei"]


def test_what_is_no_sentence_and_what_is_no_setting_is_named(translator: Path) -> None:
    run = tasks.load(translator)
    with pytest.raises(DataError, match="expected sentences to translate, got one of type int: 12"):
        next(run.translate([12]))
    with pytest.raises(DataError, match="expected a sentence to translate or several, got int: 12"):
        next(run.translate(12))
    with pytest.raises(TypeError, match="takes the settings n_best, longest, beam, length_power, coverage; got samples"):
        next(run.translate("six", samples=3))
    with pytest.raises(ValueError, match="n_best of at least 1, got 0"):
        next(run.translate("six", n_best=0))


class Scripted(nn.Module):
    """Writes given tokens, each while it attends to given places, whatever it reads."""

    attention = object()

    def __init__(self, script: list[tuple[int, dict[int, float]]]) -> None:
        super().__init__()
        self.nothing, self.script = nn.Parameter(torch.zeros(1)), script

    @property
    def members(self) -> list[nn.Module]:
        return [self]

    def encode(self, source: torch.Tensor) -> Memory:
        return Memory(torch.zeros(*source.shape, 1), torch.zeros(*source.shape, 1), torch.zeros(len(source), 1), source != PAD)

    def initial_state(self, memory: Memory, copies: int = 1) -> list[torch.Tensor]:
        return [torch.zeros(len(memory.vectors) * copies, dtype=torch.int64)]

    def forward(self, memory: Memory, tokens: torch.Tensor, state: list[torch.Tensor] | None = None) -> DecoderOutput:
        begin = 0 if state is None else int(state[0][0])
        logits = torch.zeros(*tokens.shape, WORDS.target.size)
        weights = torch.zeros(*tokens.shape, memory.vectors.shape[1])
        for t in range(tokens.shape[1]):
            token, places = self.script[min(begin + t, len(self.script) - 1)]
            logits[:, t, token] = 20.0
            for place, weight in places.items():
                weights[:, t, place] = weight
        return DecoderOutput(logits, [torch.full((len(tokens),), begin + tokens.shape[1])], weights)


def test_an_unknown_word_is_copied_from_the_place_it_attends_to_most() -> None:
    r, s = WORDS.target.encode("r s")
    script = [(r, {0: 1.0}), (UNKNOWN, {1: 0.6, 0: 0.4}), (s, {0: 1.0}), (UNKNOWN, {2: 0.9, 1: 0.1}), (END, {3: 1.0})]
    for lines in (["a Zoë b"], ["c d e", "a Zoë b", "g"]):
        found = generate(Scripted(script), WORDS, lines, longest=9, beam=2)
        assert found[lines.index("a Zoë b")][0].text == "r Zoë s b"


def test_neither_end_nor_a_word_that_was_not_read_is_copied() -> None:
    script = [(UNKNOWN, {3: 0.6, 1: 0.4}), (END, {3: 1.0})]
    ((one,),) = generate(Scripted(script), WORDS, ["a Zoë b Eve c"], longest=3, beam=1)
    assert one.text == "Zoë"


@pytest.mark.parametrize(("unit", "attention"), [("char", "between"), ("word", "none")])
def test_unknown_is_not_written_where_there_is_nothing_to_copy_it_by(unit: str, attention: str) -> None:
    translator = model(attention=attention).float()
    with torch.no_grad():
        translator.output.bias[[PAD, START, UNKNOWN]] = 50.0
    vocabularies = Vocabularies(
        SentenceTokenizer(unit, list("abcdefg"), "text"), SentenceTokenizer(unit, list("rstuvwxyz"), "text")
    )
    for several in generate(translator, vocabularies, ["abc", "d"], longest=5, beam=2, n_best=2):
        for one in several:
            assert not set(one.tokens) & {PAD, START, UNKNOWN, END}
            assert len(one.tokens) <= 5 + 1


def test_scores_are_log_p_by_length_and_the_coverage_penalty_and_the_best_comes_first() -> None:
    translator, power, beta, longest = model().float(), 0.7, 0.3, 9
    with torch.no_grad():
        translator.output.bias[END] = 2.0
    lines = ["a b c", "d", "g f e d c"]
    found = generate(translator, WORDS, lines, longest=longest, beam=5, n_best=5, length_power=power, coverage=beta)
    plain = generate(translator, WORDS, lines, longest=longest, beam=5, n_best=5, length_power=power)
    for line, several in zip(lines, found, strict=True):
        assert [one.score for one in several] == sorted((one.score for one in several), reverse=True)
        memory = translator.encode(pad([[*WORDS.source.encode(line), END]]))
        for one in several:
            output = translator(memory, torch.tensor([[START, *one.tokens]]))
            log_p = output.logits[0].log_softmax(-1)
            total = sum(float(log_p[t, i].detach()) for t, i in enumerate([*one.tokens, END]))
            attended = output.weights[0].detach().sum(0).clamp(max=1.0)
            expected = total / (len(one.tokens) + 1) ** power + beta * float(attended.log().sum())
            assert len(one.tokens) < longest  # so that it ended
            assert one.score == pytest.approx(expected, abs=1e-4)
    assert [one.score for one in plain[0]] != [one.score for one in found[0]]


def test_attention_is_shown_between_tokens_as_they_are_written() -> None:
    translator = model().float()
    ((one,),) = generate(translator, WORDS, ["a Zoë b c"], longest=3, beam=1)
    source, target, weights = attention_of(translator, WORDS, "a Zoë b c", one, longest=3)
    assert source == ["a", "Zoë", "b", "<end>"]
    assert len(target) == len(one.tokens) + 1
    assert target[-1] == "<end>"
    assert weights is not None
    assert weights.shape == (len(target), 4)
    assert weights.sum(-1).tolist() == pytest.approx([1.0] * len(target))
    assert attention_of(model(attention="none").float(), WORDS, "a b", one, longest=9)[2] is None


def test_what_is_beyond_longest_is_not_read_and_counted(translator: Path) -> None:
    run = tasks.load(translator, longest=3)
    several = list(run.translate(["one two three", "one two three four five"]))
    assert [one.left_out for one in several] == [0, 2]
    assert several[0].translations == several[1].translations
