"""The model is its equations, written out, and a batch or a whole caption changes nothing in them."""

import pytest
import torch
from tests.tasks.captioning.tiny import WAYS, F, H, P, V, model
from tests.tolerance import assert_same

from unrolled import cells
from unrolled.cells import Weights
from unrolled.tasks.captioning.model import Captioner


@pytest.mark.parametrize("image", WAYS)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_word_by_word_gives_what_the_whole_caption_gives(cell: str, image: str) -> None:
    captioner = model(cell=cell, image=image)
    seen, words = captioner.see(torch.randn(2, P, F)), torch.randint(V, (6, 5))
    whole = captioner(seen, words)
    state, steps = None, []
    for t in range(5):
        written = captioner(seen, words[:, t : t + 1], state)
        state = written.state
        steps.append(written.logits)
    assert_same(torch.cat(steps, dim=1), whole.logits)
    for last, one in zip(state, whole.state, strict=True):
        assert_same(last, one)


def told(captioner: Captioner, h: torch.Tensor, z: torch.Tensor | None, e: torch.Tensor) -> torch.Tensor:
    deep = captioner.deep(torch.cat([h, e] if z is None else [h, z, e], dim=-1))
    return captioner.output(torch.tanh(deep))


def first_step(image: str) -> tuple[Captioner, torch.Tensor, torch.Tensor, torch.Tensor, list[Weights]]:
    """A vanilla RNN captioner, the places it sees (P, H), a word's embedding (1, H), the logits it gives, its weights."""
    captioner = model(cell="rnn", image=image, attention="additive")
    features = torch.randn(1, P, F)
    seen = captioner.see(features)
    places = torch.relu(captioner.keep(captioner.norm(features.double())))[0]
    assert_same(seen.places[0], places)
    word = torch.tensor([[7]])
    e = captioner.embedding(word)[0] * captioner.embedding_scale
    weights = [Weights(*layer.all_weights[0]) for layer in captioner.layers]
    return captioner, places, e, captioner(seen, word).logits[0], weights


def test_initial_state_is_an_affine_of_the_pooled_feature() -> None:
    captioner, places, e, logits, (low, high) = first_step("initial")
    h0, h1 = captioner.start(places.mean(0, keepdim=True)).chunk(2, dim=-1)
    h = cells.rnn_tanh_cell(cells.rnn_tanh_cell(e, h0, low), h1, high)
    assert_same(logits, told(captioner, h, None, e))


def test_at_every_step_the_photo_is_an_extra_term() -> None:
    captioner, places, e, logits, (low, high) = first_step("every-step")
    w_xh, w_ih = low.w_ih[:, :H], low.w_ih[:, H:]
    h = torch.tanh(e @ w_xh.T + places.mean(0) @ w_ih.T + low.b_ih + low.b_hh)  # h_0 = 0: no W_hh term yet
    assert_same(logits, told(captioner, cells.rnn_tanh_cell(h, torch.zeros_like(h), high), None, e))


def attended(captioner: Captioner, places: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    attention = captioner.attention
    scores = [attention.score(torch.tanh(attention.query(h[0]) + attention.key(a))) for a in places]
    alpha = torch.cat(scores).softmax(0)
    return torch.sigmoid(captioner.gate(h)) * (alpha @ places)


def test_show_attend_and_tell_looks_before_each_step() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    z = attended(captioner, places, h0)
    h = cells.rnn_tanh_cell(cells.rnn_tanh_cell(torch.cat([e, z], -1), h0, low), h1, high)
    assert_same(logits, told(captioner, h, z, e))


def test_attention_between_looks_after_the_first_layer() -> None:
    captioner, places, e, logits, (low, high) = first_step("attention-between")
    h0, h1 = torch.tanh(captioner.start(places.mean(0, keepdim=True))).chunk(2, dim=-1)
    h = cells.rnn_tanh_cell(e, h0, low)
    z = attended(captioner, places, h)
    assert_same(logits, told(captioner, cells.rnn_tanh_cell(torch.cat([h, z], -1), h1, high), z, e))
