"""torch.compile, torch.export, copies and pickles of a model keep what the layers compute."""

import copy
import pickle
import shutil

import pytest
import torch
from tests.layers.twins import KINDS, B, H, I, T, assert_all_same, flat, twins
from tests.tolerance import assert_same
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

import unrolled


class Tagger(nn.Module):
    """A layer amid others, given all that it takes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.layer, self.decoder = nn.Embedding(11, I), layer, nn.Linear(2 * H, 6)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, resets: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.layer(ids, lengths=lengths, resets=resets, embedding=self.encoder.weight)[0].relu())


@pytest.fixture(params=["rnn", "lstm", "gru"])
def tagger(request) -> Tagger:
    return Tagger(twins(request.param, torch.float32, bidirectional=True)[0])


def batch(steps: int) -> tuple[torch.Tensor, ...]:
    return torch.randint(11, (steps, B)), torch.tensor([steps, 0, 3]), torch.rand(steps, B) < 0.3


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles with g++, which is not here")
def test_a_model_compiled_by_inductor_trains_to_the_same(tagger: Tagger) -> None:
    twin, inputs = copy.deepcopy(tagger), batch(T)
    for step in (torch.compile(tagger, fullgraph=True), twin):  # fullgraph: a graph break would be an error
        optimizer = torch.optim.SGD(getattr(step, "_orig_mod", step).parameters(), lr=0.1)
        for _ in range(3):
            step(*inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_all_same(tagger.parameters(), twin.parameters())


def test_an_exported_model_takes_any_number_of_steps(tagger: Tagger) -> None:
    steps = torch.export.Dim("steps", min=2, max=100)
    axes = {"ids": {0: steps}, "lengths": None, "resets": {0: steps}}
    program = torch.export.export(tagger, batch(T), dynamic_shapes=axes)
    inputs = batch(2 * T)
    assert_same(program.module()(*inputs), tagger(*inputs))


OPTIONS = [{"layer_norm": True}, {"zoneout": 0.2, "recurrent_dropout": 0.3}, {"learned_state": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layers_with_options_are_compiled_whole_for_any_number_of_steps(options: dict) -> None:
    tagger = Tagger(unrolled.LSTM(I, H, bidirectional=True, **options))
    graphs, found = [], []
    torch._dynamo.reset()

    def noted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(tagger, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=noted, bw_compiler=noted))
    for steps in (5, 8, 11):
        inputs = batch(steps)
        for model in (compiled, tagger):
            torch.manual_seed(1)
            tagger.zero_grad()
            model(*inputs).square().mean().backward()
            found.append([p.grad for p in tagger.parameters() if p.grad is not None])
        assert_all_same(found[-2], found[-1])
    assert len(graphs) == 2  # forward and backward, once
    names = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert {"unrolled.regularised.default", "unrolled.regularised_backward.default"} <= names


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_exported_layers_with_options_take_any_number_of_steps(options: dict) -> None:
    tagger = Tagger(unrolled.GRU(I, H, bidirectional=True, **options)).eval()
    steps = torch.export.Dim("steps", min=2, max=100)
    axes = {"ids": {0: steps}, "lengths": None, "resets": {0: steps}}
    inputs = batch(2 * T)
    want = tagger(*inputs)
    assert_same(torch.export.export(tagger, batch(T), dynamic_shapes=axes).module()(*inputs), want)
    layer, x = unrolled.LSTM(I, H, **options).eval(), torch.randn(T, B, I)
    assert_same(make_fx(lambda x: layer(x)[0])(torch.randn(T, B, I))(x), layer(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_copy_and_pickle_keep_the_layer(kind: str) -> None:
    ours, _ = twins(kind, num_layers=2)
    x = torch.randn(T, B, I, dtype=torch.float64)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_all_same(flat(copied(x)), flat(ours(x)))
