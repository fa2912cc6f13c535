"""Choosing the next token, and sentences by search, by sampling and by consensus."""

import itertools

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor

from unrolled.decoding import Hypothesis, beam_search, choose, consensus, decode_sentences, sample

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 5.0, 0.0]])


def drawn(**how) -> set[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    return {tuple(choose(LOGITS, generator=generator, **how).tolist()) for _ in range(300)}


def test_greedy_takes_the_likeliest() -> None:
    assert drawn(temperature=0) == {(0, 2)}
    assert drawn(temperature=1e-6) == {(0, 2)}


def test_top_k_draws_among_k() -> None:
    assert drawn(top_k=1) == {(0, 2)}
    assert {row[0] for row in drawn(top_k=2, temperature=5.0)} == {0, 1}
    assert {row[0] for row in drawn(top_k=99, temperature=5.0)} == {0, 1, 2, 3}


def test_top_p_draws_among_the_fewest_that_reach_p() -> None:
    probabilities = torch.softmax(LOGITS[0], -1)  # 0.64 0.24 0.09 0.03
    assert {row[0] for row in drawn(top_p=0.5)} == {0}
    assert {row[0] for row in drawn(top_p=float(probabilities[0]) + 0.01)} == {0, 1}
    assert {row[0] for row in drawn(top_p=1.0, temperature=5.0)} == {0, 1, 2, 3}


def test_frequencies_are_the_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    many = choose(LOGITS[:1].expand(20000, 4), temperature=2.0, generator=generator)
    seen = torch.bincount(many, minlength=4) / 20000
    torch.testing.assert_close(seen, torch.softmax(LOGITS[0] / 2, -1), atol=0.015, rtol=0)


def test_a_seed_draws_the_same_again() -> None:
    first, second = (choose(LOGITS, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("temperature", [1e-30, 1e-45, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.randn(7, 11)
    assert torch.equal(choose(logits, temperature=temperature), logits.argmax(-1))


def test_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        choose(torch.tensor([[0.0, float("nan")]]))


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}], ids=str)
def test_impossible_settings_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="expected temperature of at least 0"):
        choose(LOGITS, **how)


START, END, PAD, V, H = 0, 1, 2, 6, 7


class Speaker(torch.nn.Module):
    """A tiny decoder whose state is nested as a decoder's may be: (h, c) of an LSTM, and something that it only reads."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding, self.cell, self.out = torch.nn.Embedding(V, 3), torch.nn.LSTMCell(3 + 2, H), torch.nn.Linear(H, V)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)  # sure of itself: far from all sentences being equally likely

    def beginnings(self, batch: int) -> dict:
        features = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
        zeros = torch.zeros(batch, H, dtype=torch.float64)
        return {"lstm": (zeros, zeros), "features": features}

    def forward(self, tokens: Tensor, state: dict) -> tuple[Tensor, dict]:
        h, c = self.cell(torch.cat([self.embedding(tokens), state["features"]], dim=-1), state["lstm"])
        return self.out(h), {"lstm": (h, c), "features": state["features"]}

    def log_p(self, tokens: list[int], state: dict) -> float:
        """Of these tokens, with the ids never said left in the softmax."""
        total = 0.0
        for before, token in zip([START, *tokens], tokens, strict=False):
            logits, state = self(torch.tensor([before]), state)
            total += float(logits.detach().log_softmax(-1)[0, token])
        return total


def row(state, k: int):
    """Row k of a state, kept as a batch of one."""
    if isinstance(state, Tensor):
        return state[k : k + 1]
    return {name: row(part, k) for name, part in state.items()} if isinstance(state, dict) else tuple(row(s, k) for s in state)


def said(found) -> list[list[list[int]]]:
    return [[sentence.tokens for sentence in one] for one in found]


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(power: float) -> None:
    speaker, longest = Speaker(0), 4
    state = speaker.beginnings(1)
    words = [token for token in range(V) if token not in (START, END, PAD)]
    ranked = []
    for length in range(1, longest + 1):
        for tokens in itertools.product(words, repeat=length - 1):
            ranked.append((speaker.log_p([*tokens, END], state) / length**power, list(tokens)))
    ranked.sort(reverse=True)
    options = {"start": START, "end": END, "max_length": longest, "length_power": power, "forbidden": [PAD]}
    found = beam_search(speaker, state, beam=200, best=5, **options)[0]
    assert [sentence.tokens for sentence in found] == [tokens for _, tokens in ranked[:5]]
    assert all(sentence.ended for sentence in found)
    scores = torch.tensor([sentence.score for sentence in found], dtype=torch.float64)
    assert_same(scores, torch.tensor([score for score, _ in ranked[:5]], dtype=torch.float64))


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_what_its_sentences_give_one_at_a_time(seed: int, power: float) -> None:
    speaker = Speaker(seed)
    state = speaker.beginnings(5)
    options = {"start": START, "end": END, "max_length": 9, "beam": 3, "best": 3, "length_power": power, "forbidden": [PAD]}
    together = said(beam_search(speaker, state, **options))
    assert together == [said(beam_search(speaker, row(state, k), **options))[0] for k in range(5)]
    assert len({str(sentences) for sentences in together}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    speaker = Speaker(seed)
    state = now = speaker.beginnings(1)
    tokens, greedy = torch.tensor([START]), []
    for _ in range(9):
        logits, now = speaker(tokens, now)
        logits[:, [START, PAD]] = -torch.inf
        tokens = choose(logits, temperature=0)
        if tokens.item() == END:
            break
        greedy.append(tokens.item())
    found = beam_search(speaker, state, start=START, end=END, max_length=9, beam=1, length_power=1.0, forbidden=[PAD])
    assert said(found) == [[greedy]]


def from_bigrams(*rows: list[float]):
    """A model whose next token depends on the last one only, with these probabilities; its state has no numbers."""
    log_p = torch.tensor(rows).log()
    return lambda tokens, state: (log_p[tokens], state)


def test_sentences_that_end_early_do_not_keep_a_better_one_from_its_end() -> None:
    step = from_bigrams(  # to START, END, A, B, C
        [0, 0.4, 0.32, 0.28, 0],
        [0, 1, 0, 0, 0],
        [0, 0.6, 0, 0, 0.4],
        [0, 0, 0, 0, 1],
        [0, 1, 0, 0, 0],
    )
    options = {"start": START, "end": END, "max_length": 6, "length_power": 1.0}
    assert said(beam_search(step, torch.zeros(1, 0), beam=2, **options)) == [[[3, 4]]]  # B C END, after END and A END


def test_a_search_stops_once_the_beam_is_finished_and_no_other_sentence_has_begun_better() -> None:
    bigrams = from_bigrams([0, 0.5, 0.3, 0.2], [0, 1, 0, 0], [0, 0.55, 0.45, 0], [0, 0.55, 0, 0.45])
    steps = 0

    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal steps
        steps += 1
        return bigrams(tokens, state)

    found = beam_search(step, torch.zeros(1, 0), start=START, end=END, max_length=100, beam=2, length_power=1.0)
    assert said(found) == [[[]]]
    assert steps == 2


def test_sentences_are_ranked_by_their_log_p_unless_told_otherwise() -> None:
    step = from_bigrams([0, 0.4, 0.6], [0, 1, 0], [0, 0.5, 0.5])  # END, 0.4, before A END, 0.3; by length it is after
    (found,) = beam_search(step, torch.zeros(1, 0), start=START, end=END, max_length=3, beam=3, best=2)
    assert [sentence.tokens for sentence in found] == [[], [2]]
    assert_same(torch.tensor([sentence.score for sentence in found]), torch.tensor([0.4, 0.3]).log())


def test_forbidden_ids_are_never_said_and_sentences_are_no_longer_than_allowed() -> None:
    for seed in range(5):
        options = {"start": START, "end": END, "max_length": 5, "beam": 4, "best": 4, "forbidden": [PAD, 4]}
        for sentence in itertools.chain(*beam_search(Speaker(seed), Speaker(seed).beginnings(3), **options)):
            assert not {START, END, PAD, 4} & set(sentence.tokens)
            assert len(sentence.tokens) + sentence.ended <= 5


def test_a_sentence_that_never_ends_is_cut_and_says_so() -> None:
    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(len(tokens), V)
        logits[:, END] = -torch.inf
        return logits, state

    (found,) = beam_search(step, torch.zeros(1, 0), start=START, end=END, max_length=3, beam=2, best=2)
    assert [(len(sentence.tokens), sentence.ended) for sentence in found] == [(3, False)] * 2


def test_fewer_sentences_come_back_where_there_are_no_more() -> None:
    def step(tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(tokens), 3), state

    (found,) = beam_search(step, torch.zeros(1, 0), start=0, end=1, max_length=4, beam=9, best=9, forbidden=[2])
    assert [sentence.tokens for sentence in found] == [[]]


@pytest.mark.parametrize("how", [{"beam": 0}, {"best": 4}, {"max_length": 0}, {"length_power": -1.0}], ids=str)
def test_impossible_searches_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="beam_search expected"):
        beam_search(Speaker(0), Speaker(0).beginnings(1), **{"start": START, "end": END, "max_length": 3, **how})


def test_a_beam_search_over_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        beam_search(lambda _, s: (torch.full((1, 3), torch.nan), s), torch.zeros(1), start=0, end=1, max_length=3)


def test_uniform_numbers_pick_the_token_in_whose_interval_they_lie() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(5, 4)
    assert choose(logits, uniform=torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71])).tolist() == [0, 0, 2, 2, 3]
    almost_one = torch.tensor([1 - 1e-12], dtype=torch.float64)
    assert choose(torch.tensor([[1.0, 2.0, -torch.inf]]), uniform=almost_one).tolist() == [1]
    ranked = choose(logits, top_k=2, uniform=torch.tensor([0.0, 0.6, 0.63, 0.9, 0.999]))  # of 0.5 and 0.3
    assert ranked.tolist() == [2, 2, 3, 3, 3]


SAMPLED = {"start": START, "end": END, "pad": PAD}


def test_a_sentence_is_sampled_as_often_as_the_model_says() -> None:
    speaker = Speaker(0)
    state, number = speaker.beginnings(1), 20_000
    tokens, log_p = sample(speaker, state, torch.rand(2, 1, number), **SAMPLED, temperature=1.0)
    logits, _ = speaker(torch.tensor([START]), state)
    logits[:, [START, PAD]] = -torch.inf
    expected = logits.softmax(-1)[0].detach()
    share = torch.bincount(tokens[0, :, 0], minlength=V) / number
    assert float((share - expected).abs().max()) < 0.015  # four standard errors of a half
    at_once = next(i for i in range(number) if tokens[0, i, 0] == END)
    assert_same(log_p[0, at_once], expected.log()[END].float())


@pytest.mark.parametrize("seed", range(3))
def test_sampled_sentences_have_the_log_p_of_their_tokens_and_padding_behind_end(seed: int) -> None:
    speaker = Speaker(seed)
    state = speaker.beginnings(3)
    tokens, log_p = sample(speaker, state, torch.rand(6, 3, 4), **SAMPLED, forbidden=[4], temperature=2.0)
    lengths = set()
    for b in range(3):
        for n, ids in enumerate(tokens[b].tolist()):
            sentence = ids[: ids.index(END) + 1] if END in ids else ids
            assert ids[len(sentence) :] == [PAD] * (len(ids) - len(sentence))
            assert not {START, PAD, 4} & set(sentence)
            now, total = row(state, b), torch.zeros((), dtype=torch.float64)
            for before, token in zip([START, *sentence], sentence, strict=False):
                logits, now = speaker(torch.tensor([before]), now)
                logits = logits.detach().index_fill(-1, torch.tensor([START, PAD, 4]), -torch.inf)
                total += logits.log_softmax(-1)[0, token]
            assert_same(log_p[b, n], total.float())
            lengths.add(len(sentence))
    assert len(lengths) > 1


SENTENCES = {**SAMPLED, "max_length": 7, "length_power": 0.7, "number": 2}


def by_overlap(candidates: list[list[int]], others: list[list[int]]) -> Tensor:
    return torch.tensor([sum(len(set(one) & set(other)) for other in others) for one in candidates]) / len(others)


@pytest.mark.parametrize(
    "how", [{"temperature": 1.5}, {"samples": 9, "agreement": by_overlap}, {}], ids=("drawn", "agreement", "searched")
)
def test_what_a_beginning_gets_does_not_depend_on_its_batch(how: dict) -> None:
    speaker = Speaker(1)
    state = speaker.beginnings(5)
    together = said(decode_sentences(speaker, state, **SENTENCES, **how))
    assert together == [said(decode_sentences(speaker, row(state, k), **SENTENCES, **how))[0] for k in range(5)]
    assert [len(sentences) for sentences in together] == [2] * 5
    assert len({str(sentences) for sentences in together}) > 1


def test_consensus_ranks_by_agreement_and_a_share_of_the_score() -> None:
    hypotheses = [Hypothesis([3], -0.1, True), Hypothesis([4, 5], -0.5, True), Hypothesis([5], -9.0, True)]
    ranked = consensus(hypotheses, [[4, 5], [5], [3]], by_overlap, likelihood_weight=0.1)
    assert [one.tokens for one in ranked] == [[4, 5], [3], [5]]
    assert [one.score for one in ranked] == pytest.approx([1 - 0.05, 1 / 3 - 0.01, 2 / 3 - 0.9])


def test_consensus_counts_agreement_alone_unless_told_otherwise() -> None:
    speaker, how = Speaker(1), {**SENTENCES, "number": 3, "samples": 9, "agreement": by_overlap}
    found, told, weighted = (
        decode_sentences(speaker, speaker.beginnings(4), **how, **more)
        for more in ({}, {"likelihood_weight": 0.0}, {"likelihood_weight": 1.0})
    )
    assert found == told
    assert found != weighted


def test_sampled_sentences_are_ranked_by_log_p_over_their_length() -> None:
    speaker = Speaker(2)
    (found,) = decode_sentences(speaker, speaker.beginnings(1), **{**SENTENCES, "number": 6}, temperature=1.0)
    tokens, log_p = sample(
        speaker,
        speaker.beginnings(1),
        torch.rand(7, 1, 6, generator=torch.Generator().manual_seed(0)),
        **SAMPLED,
    )
    scores = log_p[0] / (tokens[0] != PAD).sum(-1) ** 0.7
    assert [one.score for one in found] == sorted(scores.tolist(), reverse=True)


@pytest.mark.parametrize("how", [{"number": 0}, {"max_length": 0}, {"samples": -1}, {"temperature": 0.0}], ids=str)
def test_impossible_numbers_of_sentences_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="expected number and max_length of at least 1"):
        decode_sentences(Speaker(0), Speaker(0).beginnings(1), **{**SENTENCES, **how})


def test_consensus_without_a_measure_of_agreement_is_refused() -> None:
    with pytest.raises(ValueError, match="consensus among 3 samples expected a measure of agreement"):
        decode_sentences(Speaker(0), Speaker(0).beginnings(1), **SENTENCES, samples=3)
