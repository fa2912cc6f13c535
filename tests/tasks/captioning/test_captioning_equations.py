"""The model is its equations, output out, dropout's places among them, and a whole caption changes nothing in them."""

import pytest
import torch
from tests.tasks.captioning.tiny import WAYS, F, H, P, V, model
from tests.tolerance import assert_same
from torch import nn

from unrolled import cells
from unrolled.cells import Weights
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.model import Captioner


@pytest.mark.parametrize("image", WAYS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_word_by_word_gives_what_the_whole_caption_gives(cell: str, image: str) -> None:
    captioner = model(cell=cell, image=image)
    photos, words = captioner.encode(torch.randn(2, P, F)), torch.randint(V, (6, 5))
    whole = captioner(photos, words)
    state, steps = None, []
    for t in range(5):
        output = captioner(photos, words[:, t : t + 1], state)
        state = output.state
        steps.append(output.logits)
    assert_same(torch.cat(steps, dim=1), whole.logits)
    for last, one in zip(state, whole.state, strict=True):
        assert_same(last, one)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_table_has_the_output_layers_scale_and_words_enter_scaled_up(tied: bool) -> None:
    captioner = Captioner(Config(hidden_size=64, tied=tied), 500, F)
    assert (captioner.output.weight is captioner.embedding.weight) == tied
    assert float(captioner.embedding.weight.std()) == pytest.approx(1 / 8, rel=0.03)  # of 32,000 numbers: seven standard errors
    assert captioner.embedding_scale == (8 if tied else 1)


class Times(nn.Module):
    """Stands where dropout does, so that the equations show what passes through it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def logits_of(captioner: Captioner, h: torch.Tensor, z: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
    drop = captioner.dropout
    deep = captioner.deep(torch.cat([drop(h), e] if z is None else [drop(h), z, e], dim=-1))
    return captioner.output(drop(torch.tanh(deep)))


def first_step(image: str) -> tuple[Captioner, torch.Tensor, torch.Tensor, torch.Tensor, list[Weights]]:
    """A vanilla RNN captioner, the places it sees (P, H), a word's embedding (1, H), the logits it gives, its weights."""
    captioner = model(cell="rnn", image=image, attention="additive")
    captioner.dropout, captioner.place_dropout = Times(0.7), Times(1.3)
    features = torch.randn(1, P, F)
    photos = captioner.encode(features)
    places = captioner.place_dropout(torch.relu(captioner.keep(captioner.norm(features.double()))))[0]
    assert_same(photos.vectors[0], places)
    word = torch.tensor([[7]])
    e = captioner.dropout(captioner.embedding(word)[0] * captioner.embedding_scale)
    weights = [Weights(*layer.all_weights[0]) for layer in captioner.layers]
    return captioner, places, e, captioner(photos, word).logits[0], weights


def test_initial_state_is_an_affine_of_the_pooled_feature() -> None:
    captioner, places, e, logits, (low, high) = first_step("initial")
    h0, h1 = captioner.start(places.mean(0, keepdim=True)).chunk(2, dim=-1)
    h = captioner.dropout(cells.rnn_tanh_cell(e, h0, low))
    assert_same(logits, logits_of(captioner, cells.rnn_tanh_cell(h, h1, high), None, e))


def test_at_every_step_the_photo_is_an_extra_term() -> None:
    captioner, places, e, logits, (low, high) = first_step("every-step")
    w_xh, w_ih = low.w_ih[:, :H], low.w_ih[:, H:]
    h = torch.tanh(e @ w_xh.T + places.mean(0) @ w_ih.T + low.b_ih + low.b_hh)  # h_0 = 0: no W_hh term yet
    h = captioner.dropout(h)
    assert_same(logits, logits_of(captioner, cells.rnn_tanh_cell(h, torch.zeros_like(h), high), None, e))


def attended(captioner: Captioner, places: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    attention = captioner.attention
    scores = [attention.score(torch.tanh(attention.query(h[0]) + attention.key(a))) for a in places]
    alpha = torch.cat(scores).softmax(0)
    return torch.sigmoid(captioner.gate(h)) * (alpha @ places)


def test_show_attend_and_tell_looks_before_each_step() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    z = attended(captioner, places, h0)
    h = captioner.dropout(cells.rnn_tanh_cell(torch.cat([e, z], -1), h0, low))
    assert_same(logits, logits_of(captioner, cells.rnn_tanh_cell(h, h1, high), z, e))


def test_attention_between_looks_after_the_first_layer() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention-between")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    h = captioner.dropout(cells.rnn_tanh_cell(e, h0, low))
    z = attended(captioner, places, h)
    assert_same(logits, logits_of(captioner, cells.rnn_tanh_cell(torch.cat([h, z], -1), h1, high), z, e))


def share_dropped(x: torch.Tensor, whole: torch.Tensor) -> float:
    """How much of `whole` is zero in x; the rest must be scaled up by what is missing."""
    there, kept = whole != 0, (x != 0) & (whole != 0)
    share = 1 - float(kept.sum() / there.sum())
    factor = (x[kept] / whole[kept]).mean().detach()
    assert_same(x[kept], factor * whole[kept])
    assert share == pytest.approx(1 - 1 / float(factor), abs=0.03)  # five standard errors of thousands of units
    return share


@pytest.mark.parametrize(("rate", "of_places"), [(0.5, 0.1), (0.05, 0.05)])
def test_in_training_units_are_dropped_at_the_rate_and_places_at_a_tenth_at_most(rate: float, of_places: float) -> None:
    captioner, features, words = model(dropout=rate), torch.randn(200, 20, F), torch.randn(500, 5, 20, dtype=torch.float64)
    whole, whole_words = captioner.encode(features).vectors, captioner.dropout(words)
    assert torch.equal(whole_words, words)
    captioner.train()
    assert share_dropped(captioner.encode(features).vectors, whole) == pytest.approx(of_places, abs=0.03)
    dropped = captioner.dropout(words)
    assert share_dropped(dropped, words) == pytest.approx(rate, abs=0.03)
    assert torch.equal(dropped[:, 0] == 0, dropped[:, 4] == 0)  # the same units at every step of a caption
    assert not torch.equal(dropped[0] == 0, dropped[1] == 0)  # others in another
