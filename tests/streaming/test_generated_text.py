"""What is drawn: the documented random numbers, the distribution, seeds, chunks, stop and forbidden tokens."""

import math

import pytest
import torch
from tests.streaming.reference import SCORES, Model, fixed_scores, parts
from torch import Tensor, nn

from unrolled import streaming
from unrolled.streaming import Streamer


@pytest.mark.parametrize("precision", streaming.PRECISIONS)
@pytest.mark.parametrize("temperature", [0, 1.3])
def test_chunks_of_any_sizes_give_the_same_text(precision: str, temperature: float) -> None:
    model = Model()
    how = {"context": [5], "seed": 11, "temperature": temperature, "top_k": 20, "top_p": 0.95}
    whole = model.streamer(precision=precision).generate(50, **how)
    streamer = model.streamer(precision=precision)
    how_on = {name: how[name] for name in ("temperature", "top_k", "top_p")}
    pieces = streamer.generate(1, **how) + streamer.generate(0, **how_on) + streamer.generate(30, **how_on)
    before = streamer.state  # reading the state in between feeds the last token back, once
    pieces += streamer.generate(19, **how_on)
    assert pieces == whole
    assert list(model.streamer(precision=precision).stream(50, chunk=7, **how)) == whole
    reader = model.streamer(precision=precision)
    reader.feed([5, *whole[:31]])
    for now, then in zip(parts(reader.state), parts(before), strict=True):
        assert torch.equal(now, then)


def test_a_seed_gives_the_same_text_again_and_another_seed_another() -> None:
    streamer = Model().streamer()
    texts = []
    for seed in (1, 1, 2, 2**64 - 1, -1):
        streamer.set_state()
        texts.append(streamer.generate(40, context=[0], seed=seed))
    assert texts[0] == texts[1] != texts[2] != texts[3] == texts[4]
    streamer.set_state()
    assert streamer.generate(40, context=[0]) != texts[4]  # the numbers go on
    model = Model()
    fresh = [model.streamer().generate(40, context=[0]) for _ in range(2)]
    assert fresh[0] != fresh[1]  # no seed at all: the operating system's


def distribution(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """What `unrolled.decoding.choose` draws from."""
    p = torch.softmax(scores.double() / temperature, -1)
    ranked, order = p.sort(descending=True, stable=True)
    if top_k is not None:
        ranked[top_k:] = 0
    if top_p is not None:
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0
    return torch.zeros_like(p).scatter(0, order, ranked / ranked.sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 4, 11, 500])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.93, 1.0])
def test_frequencies_are_those_of_the_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    n, expected = 20_000, distribution(SCORES, temperature, top_k, top_p)
    ids = fixed_scores(SCORES).generate(n, temperature=temperature, top_k=top_k, top_p=top_p, seed=3)
    seen = torch.bincount(torch.tensor(ids), minlength=len(SCORES)).double()
    assert not seen[expected == 0].any()
    kept = expected * n > 5  # where chi-square holds
    chi_square = ((seen - expected * n) ** 2 / (expected * n))[kept].sum()
    assert chi_square < 35  # 10 degrees of freedom exceed it once in 8,000 times


def test_the_random_numbers_are_the_documented_ones() -> None:
    seed, mask = 2024, 2**64 - 1
    state, z = [], seed
    for _ in range(4):  # splitmix64
        z = (z + 0x9E3779B97F4A7C15) & mask
        w = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        w = ((w ^ (w >> 27)) * 0x94D049BB133111EB) & mask
        state.append(w ^ (w >> 31))

    def rotate(x: int, k: int) -> int:
        return ((x << k) | (x >> (64 - k))) & mask

    expected = []
    cumulative = torch.softmax(SCORES.double(), -1).cumsum(0).tolist()
    for _ in range(200):  # xoshiro256**
        u = (rotate(state[1] * 5 & mask, 7) * 9 & mask) >> 11
        t = state[1] << 17 & mask
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = rotate(state[3], 45)
        expected.append(next(i for i, c in enumerate(cumulative) if c > u * 2.0**-53))
    assert fixed_scores(SCORES).generate(200, seed=seed) == expected


def test_equal_scores_put_the_lower_id_first() -> None:
    streamer = fixed_scores(SCORES)
    assert set(streamer.generate(50, temperature=0)) == {2}
    assert set(streamer.generate(50, top_k=1, seed=0)) == {2}
    assert set(streamer.generate(200, top_k=2, seed=0)) == {2, 5}
    assert set(streamer.generate(50, temperature=1e-300, seed=0)) <= {2, 5}


def test_forbidden_tokens_are_never_chosen() -> None:
    streamer = fixed_scores(SCORES)
    assert set(streamer.generate(20, temperature=0, forbidden=[2, 5])) == {7}
    assert not {0, 2} & set(streamer.generate(3000, temperature=5, forbidden=[0, 2], seed=1))
    assert set(streamer.generate(300, top_k=2, forbidden=[2], seed=1)) == {5, 7}
    model = Model()
    assert model.streamer().generate(40, context=[2], temperature=0, forbidden=[1, 7]) == model.greedy([2], 40, (1, 7))


def test_the_stop_token_ends_the_text_and_is_not_in_it() -> None:
    model = Model()
    text = model.greedy([4], 40)
    stop = text[12]
    streamer = model.streamer()
    assert streamer.generate(40, context=[4], temperature=0, stop=stop) == text[: text.index(stop)]
    assert list(model.streamer().stream(40, chunk=5, context=[4], temperature=0, stop=stop)) == text[: text.index(stop)]
    assert streamer.generate(5, temperature=0) == text[text.index(stop) + 1 :][:5]  # going on reads it


@pytest.mark.parametrize("stop", [0, 2])
def test_a_stream_ends_where_the_text_ends(stop: int) -> None:
    whole = fixed_scores(SCORES).generate(200, seed=1)
    before = whole[: whole.index(stop)]
    assert fixed_scores(SCORES).generate(200, seed=1, stop=stop) == before
    for chunk in (1, 3, len(before) + 1):
        assert list(fixed_scores(SCORES).stream(200, chunk=chunk, seed=1, stop=stop)) == before


@pytest.mark.parametrize("precision", streaming.PRECISIONS)
@pytest.mark.parametrize("how", [{"temperature": 0}, {}, {"top_k": 3}, {"top_p": 0.5}], ids=str)
def test_scores_that_are_no_numbers_raise(precision: str, how: dict) -> None:
    model = Model()
    with torch.no_grad():
        model.layers.weight_hh_l1[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="Are the weights finite"):
        model.streamer(precision=precision).generate(5, context=[1, 2], **how)
    with pytest.raises(FloatingPointError, match="all forbidden"):
        fixed_scores(SCORES).generate(5, forbidden=range(len(SCORES)), **how)


@pytest.mark.parametrize(
    "how", [{"temperature": -1}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}], ids=str
)
def test_impossible_settings_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="expected temperature of at least 0"):
        Model().streamer().generate(3, **how)


def test_generation_needs_tokens_scores_and_one_sequence() -> None:
    layers = nn.GRU(5, 4)
    with pytest.raises(ValueError, match="to read tokens"):
        Streamer(layers, decoder_weight=torch.zeros(5, 4)).generate(3)
    with pytest.raises(ValueError, match="to score tokens"):
        Streamer(layers, one_hot=True).generate(3)
    with pytest.raises(ValueError, match="to score tokens"):
        Streamer(layers).logits()
    with pytest.raises(ValueError, match=r"can score \(6\)"):
        Streamer(layers, one_hot=True, decoder_weight=torch.zeros(6, 4)).generate(3)
    streamer = Streamer(layers, one_hot=True, decoder_weight=torch.zeros(5, 4))
    streamer.set_state(batch=2)
    with pytest.raises(ValueError, match="a batch of 2"):
        streamer.generate(3)
    with pytest.raises(ValueError, match="length of at least 0"):
        streamer.generate(-1)
