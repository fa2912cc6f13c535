"""Tokens in, scores and greedy text out, as a loop over the model gives them."""

import pytest
import torch
from tests.streaming.reference import CELLS, Model, assert_near, exact, parts, random_state, variants
from tests.tolerance import STREAMING
from torch import nn
from torch.nn.functional import embedding as lookup
from torch.nn.functional import linear, one_hot

from unrolled import streaming
from unrolled.streaming import Streamer


@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("front", ["one_hot", "table", "embedding"])
def test_tokens_are_their_rows(front: str, cell: str, precision: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    V, I, H = 19, 11, 33
    if front == "embedding":
        monkeypatch.setattr("unrolled.streaming.packed_weights.TABLE_LIMIT", 0)
    layers = CELLS[cell](V if front == "one_hot" else I, H, 2)
    table, decoder = torch.randn(V, I), nn.Linear(H, 37)
    streamer = Streamer(
        layers,
        **({"one_hot": True} if front == "one_hot" else {"embedding": table}),
        decoder_weight=decoder.weight,
        decoder_bias=decoder.bias,
        precision=precision,
        isa=isa,
    )
    ids = torch.randint(V, (4, 3))
    x = one_hot(ids, V).float() if front == "one_hot" else lookup(ids, table)
    expected, last = exact(layers, x)
    streamer.set_state(batch=3)
    assert_near(torch.stack([streamer.step(t) for t in ids]), expected, STREAMING[precision])
    scores = linear(expected[-1], decoder.weight.double(), decoder.bias.double()).detach()
    assert_near(streamer.logits(), scores, STREAMING[precision])
    streamer.set_state()
    streamer.feed(ids[:, 0])
    assert_near(streamer.state, tuple(p[:, :1] for p in last) if cell == "LSTM" else last[:, :1], STREAMING[precision])


@pytest.mark.parametrize("isa", streaming.isas())
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_text_is_the_python_loops(cell: str, isa: str) -> None:
    model = Model(cell)
    assert model.streamer(isa=isa).generate(60, context=[3, 1, 4], temperature=0) == model.greedy([3, 1, 4], 60)


def test_generation_starts_from_a_state() -> None:
    model = Model("GRU")
    whole = model.streamer().generate(20, context=[1, 2], temperature=0)
    reader, writer = model.streamer(), model.streamer()
    reader.feed([1, 2])
    writer.set_state(reader.state)
    assert writer.generate(20, temperature=0) == whole


def test_tokens_out_of_range_are_refused_and_change_nothing() -> None:
    model = Model()
    streamer = model.streamer()
    streamer.set_state(random_state(model.layers, 1))
    before = streamer.state
    for call in (
        lambda: streamer.step(torch.tensor([23])),
        lambda: streamer.step(torch.tensor([-1])),
        lambda: streamer.feed([1, 2, 99]),
        lambda: streamer.generate(3, context=[-5]),
        lambda: streamer.generate(3, forbidden=[23]),
        lambda: streamer.generate(3, stop=23),
        lambda: streamer.advance(torch.tensor([1, 40])),
    ):
        with pytest.raises(ValueError, match=r"token ids from 0 to 22, got (23|-1|99|-5|40)"):
            call()
    for now, then in zip(parts(streamer.state), parts(before), strict=True):
        assert torch.equal(now, then)
    with pytest.raises(ValueError, match=r"dtype torch\.int64, got torch\.float32"):
        streamer.step(torch.zeros(1))
