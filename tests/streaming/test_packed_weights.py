"""A streamer's copy of the weights: taken when it is built, and again when it is told to."""

import copy
import gc
import pickle
from types import SimpleNamespace

import pytest
import torch
from tests.streaming.reference import Model, assert_near, exact, parts, random_state
from torch import nn

from unrolled.streaming import Streamer


def replaced(layers: nn.Module) -> None:
    layers.weight_hh_l0 = nn.Parameter(layers.weight_hh_l0.detach() * 2)


def swapped(layers: nn.Module) -> None:
    layers.weight_hh_l0.data = layers.weight_hh_l0.detach() * 2


def written(layers: nn.Module) -> None:
    with torch.no_grad():
        layers.weight_hh_l0.mul_(2)


def loaded(layers: nn.Module) -> None:
    layers.load_state_dict({name: 2 * value for name, value in layers.state_dict().items()})


def trained(layers: nn.Module) -> None:
    layers(torch.randn(3, 2, 4))[0].sum().backward()
    torch.optim.Adam(layers.parameters(), lr=0.1).step()


@pytest.mark.parametrize("change", [replaced, swapped, written, loaded, trained])
def test_changed_weights_are_copied_again_when_asked(change) -> None:
    layers = nn.LSTM(4, 6)
    streamer = Streamer(layers)
    x, state = torch.randn(2, 1, 4), random_state(layers, 1)
    streamer.set_state(state)
    first = streamer.step(x[0])
    change(layers)
    kept = streamer.state
    streamer.repack()
    for now, then in zip(parts(streamer.state), parts(kept), strict=True):
        assert torch.equal(now, then)
    assert_near(streamer.step(x[1]), exact(layers, x[1:], kept)[0][0], 1e-5)
    streamer.set_state(state)
    assert not torch.allclose(streamer.step(x[0]), first)


def test_a_changed_embedding_or_decoder_is_copied_again() -> None:
    model = Model()
    streamer = model.streamer()
    for module in (model.embedding, model.decoder):
        with torch.no_grad():
            module.weight.add_(1)
        streamer.repack()
        streamer.set_state()
        streamer.feed([1, 2])
        fresh = model.streamer()
        fresh.feed([1, 2])
        assert torch.equal(streamer.logits(), fresh.logits())


def test_a_token_that_was_written_is_read_by_the_weights_that_wrote_it() -> None:
    """It is read when it is needed, with the next step: copying the weights again comes after."""
    model = Model()
    streamer, other = model.streamer(), model.streamer()
    for one in (streamer, other):
        one.generate(5, context=[1], temperature=0)
    with torch.no_grad():
        model.layers.weight_hh_l0.mul_(2)
    streamer.repack()
    for now, then in zip(parts(streamer.state), parts(other.state), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("seed", [None, 3])
def test_random_numbers_start_anew_where_weights_are_copied_again(seed: int | None) -> None:
    streamer, texts = Model().streamer(), []
    for given in (seed, None):
        streamer.set_state()
        texts.append(streamer.generate(40, context=[0], seed=given))
        streamer.repack()
    assert texts[0] == texts[1]


@pytest.mark.parametrize("which", ["embedding", "decoder"])
def test_tables_that_no_longer_fit_are_not_copied(which: str) -> None:
    model = Model()
    streamer, weight = model.streamer(), getattr(model, which).weight
    weight.data = weight.data[:2]
    with pytest.raises(ValueError, match=r"got \(2, "):
        streamer.repack()


def test_a_streamer_that_is_gone_leaves_no_weights_behind() -> None:
    weights, freed = Streamer(nn.GRU(3, 4)).weights, []
    engine, handle = weights._engine, weights.handle
    weights._engine = SimpleNamespace(unrolled_stream_destroy=freed.append)
    del weights
    gc.collect()
    assert freed == [handle]
    engine.unrolled_stream_destroy(handle)


def transposed(layers: nn.Module) -> None:
    layers.weight_hh_l0.data = layers.weight_hh_l0.data.view(layers.weight_hh_l0.shape[::-1])


def another_type(layers: nn.Module) -> None:
    layers.weight_hh_l0.data = layers.weight_hh_l0.data.double()


@pytest.mark.parametrize("change", [transposed, another_type])
def test_weights_that_do_not_fit_are_not_copied(change) -> None:
    layers = nn.LSTM(4, 6)
    streamer = Streamer(layers)
    change(layers)
    with pytest.raises(ValueError, match=r"weight of shape \(6, 24\)|weights of torch.float64"):
        streamer.repack()
    with pytest.raises(ValueError, match=r"weight of shape \(6, 24\)|weights of torch.float64"):
        Streamer(layers)


def test_lazily_negated_weights_are_copied_as_their_values() -> None:
    layers, x = nn.GRU(3, 4), torch.randn(2, 3)
    table = torch._neg_view(torch.randn(5, 3))
    streamer = Streamer(layers, embedding=table)
    streamer.set_state(batch=2)
    ids = torch.tensor([4, 1])
    assert_near(streamer.step(ids), layers(table[ids][None])[0][0].detach(), 1e-5)
    streamer = Streamer(layers)
    streamer.set_state(batch=2)
    assert_near(streamer.step(torch._neg_view(x)), layers(-x[None])[0][0].detach(), 1e-5)


def test_a_streamer_is_not_copied_or_pickled() -> None:
    streamer = Streamer(nn.GRU(3, 4))
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="build it again"):
            copying(streamer)
