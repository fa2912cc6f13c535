"""What a layer shows of its inside: the state of every step, the gradient's norm at every step."""

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, twins
from tests.tolerance import assert_same

import unrolled
from unrolled.kernels import definition, operators


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_every_step_are_those_that_shorter_runs_end_in(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **variant)
    x = torch.randn(T, B, I, dtype=torch.float64)
    every = layer.states(x.transpose(0, 1) if layer.batch_first else x)
    time = 1 if layer.batch_first else 0
    for t in range(T):
        part = x[: t + 1]
        _, last = layer(part.transpose(0, 1) if layer.batch_first else part)
        for part_number, whole in enumerate(last if isinstance(last, tuple) else (last,)):
            if layer.bidirectional:  # the second direction has read more by then; its last step is the first
                assert_same(every[0][part_number].select(time, t), whole[0])
            else:
                for k, state in enumerate(every):
                    assert_same(state[part_number].select(time, t), whole[k])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_norms_are_those_of_the_states_gradients(kind: str, variant: dict) -> None:
    """Against autograd asked for the gradient of each state in a chain of the cell's single steps."""
    layer, _ = twins(kind, **{**variant, "num_layers": 1, "bidirectional": False, "batch_first": False})
    x, resets = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.3
    scale = torch.randn(T, B, layer.proj_size or H, dtype=torch.float64)
    norms = torch.full((1, 2, T, B), -1.0)
    output, _ = layer(x, resets=resets, gradient_norms=norms)
    (output * scale).sum().backward()
    zeros = torch.zeros(B, layer.proj_size or H, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64)
    state, seen, loss = [*zeros, None][:: 1 if layer.mode == "LSTM" else 2], [], torch.zeros((), dtype=torch.float64)
    for t in range(T):
        *_, h, c = definition.run(layer.mode, x[t : t + 1], *state[:2], *layer.layer_weights()[0], resets=resets[t : t + 1])
        state = h, c
        seen.append([part for part in state if part is not None])
        loss = loss + (h * scale[t]).sum()
    for t, parts in enumerate(seen):
        for k, gradient in enumerate(torch.autograd.grad(loss, parts, retain_graph=True, allow_unused=True)):
            expected = torch.zeros(B) if gradient is None else gradient.norm(dim=-1).float()
            torch.testing.assert_close(norms[0, k, t], expected, rtol=1e-5, atol=1e-6)
    if layer.mode != "LSTM":
        assert not norms[0, 1].any()


def test_gradient_norms_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"gradient_norms expected shape \(1, 2, 5, 3\)"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), gradient_norms=torch.zeros(T, B))


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"proj_size": 3}, {"save": "outputs"}], ids=str)
@pytest.mark.parametrize("frozen", ["all", "first layer"])
def test_gradient_norms_of_frozen_layers_are_those_of_learning_ones(options: dict, frozen: str) -> None:
    layer, x = unrolled.LSTM(I, H, num_layers=2, **options), torch.randn(T, B, I)
    found = []
    for freeze in (False, True):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not freeze or (frozen != "all" and "_l1" in name))
        found.append(torch.full((2, 2, T, B), -1.0))
        layer(x, gradient_norms=found[-1])[0].square().sum().backward()
    assert_same(found[1], found[0])
    assert (found[0] > 0).all()


@pytest.mark.parametrize("options", [{}, {"zoneout": 0.1}, {"save": "outputs"}], ids=str)
def test_where_no_loss_depends_on_a_layer_the_norms_are_zero(options: dict) -> None:
    layer, norms = unrolled.GRU(I, H, num_layers=2, **options), torch.full((2, 2, T, B), -1.0)
    _, h_n = layer(torch.randn(T, B, I), gradient_norms=norms)
    h_n[0].sum().backward()
    assert norms[0, 0].any()
    assert not norms[1].any()


@pytest.mark.parametrize("kind", ["rnn", "relu", "lstm", "gru"])
def test_what_is_asked_of_a_layer_alone_is_what_it_is_among_all(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of one input by itself, bit for bit, and norms of the same bits; nothing else is computed on the way."""
    backward, computed = operators.sequence.backward, []

    def spy(*arguments):
        computed.append(sum(arguments[6]))
        return backward(*arguments)

    monkeypatch.setattr(operators.sequence, "backward", spy)
    make, _, options = KINDS[kind]
    layer, x = make(I, H, **options), torch.randn(T, B, I, requires_grad=True)
    h = torch.randn(1, B, H, requires_grad=True)
    hx = (h, torch.randn(1, B, H, requires_grad=True)) if layer.mode == "LSTM" else h
    norms = torch.zeros(1, 2, T, B)
    loss = layer(x, hx, gradient_norms=norms)[0].square().sum()
    inputs = [x, h, *layer.parameters()]
    every, noted = torch.autograd.grad(loss, inputs, retain_graph=True), norms.clone()
    computed.clear()
    for one, expected in zip(inputs, every, strict=True):
        norms.zero_()
        (alone,) = torch.autograd.grad(loss, one, retain_graph=True)
        assert torch.equal(alone, expected)
        assert torch.equal(norms, noted)
    assert computed == [1] * len(inputs)
