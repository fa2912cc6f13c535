"""Dropout acts on what a layer hands to the next, in training only, and on nothing else."""

import pytest
import torch
from tests.layers.twins import KINDS, B, H, I, T, assert_all_same, flat
from tests.tolerance import assert_same
from torch import nn

import unrolled

OPTIONS = [
    {},
    {"bidirectional": True},
    {"layer_norm": True},
    {"learned_state": True},
    {"recurrent_dropout": 0.4},
    {"zoneout": 0.3},
]


def made(kind: str, **options):
    ours, _, extra = KINDS[kind]
    return ours(I, H, num_layers=2, **extra, **options)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_where_all_is_dropped_the_output_knows_nothing_of_the_input(
    kind: str, options: dict, steps: int, gradients: bool
) -> None:
    layer, runs = made(kind, dropout=1.0, **options), []
    for _ in range(2):
        x = torch.randn(steps, B, I)
        torch.manual_seed(1)
        with torch.set_grad_enabled(gradients):
            runs.append(flat(layer(x)))
    (output, *state), (other_output, *other_state) = runs
    assert torch.equal(output, other_output)
    assert output.any()  # the last layer's own output is not dropped
    half = len(state[0]) // 2
    for one, other in zip(state, other_state, strict=True):
        assert not torch.equal(one[:half], other[:half])  # nor is the first layer's state
        assert torch.equal(one[half:], other[half:])


@pytest.mark.parametrize("given", ["tokens", "packed", "batch_first"])
def test_every_form_of_input_is_dropped_alike(given: str) -> None:
    layer = unrolled.GRU(I, H, num_layers=2, dropout=1.0, batch_first=given == "batch_first")
    outputs = []
    for _ in range(2):
        if given == "tokens":
            result = layer(torch.randint(9, (T, B)), embedding=torch.randn(9, I))[0]
        elif given == "packed":
            result = layer(nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, I), [5, 3, 2]))[0].data
        else:
            result = layer(torch.randn(B, T, I))[0]
        outputs.append(result)
    assert torch.equal(*outputs)
    assert outputs[0].any()


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_what_is_kept_is_scaled_by_what_is_dropped(rate: float) -> None:
    """The second layer hands on what it reads: relu with the identity for W_ih, and zeros for the rest."""
    layer = unrolled.RNN(I, H, num_layers=2, nonlinearity="relu", dropout=rate)
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"):
            getattr(layer, name).zero_()
        layer.weight_ih_l1.copy_(torch.eye(H))
        layer.bias_ih_l0.fill_(9)  # every unit of the first layer is above zero
    x = torch.randn(20, 50, I)
    whole = layer.eval()(x)[0]
    assert (whole > 0).all()
    output = layer.train()(x)[0]
    kept = output != 0
    assert_same(output[kept], whole[kept] / (1 - rate))
    assert abs(1 - kept.float().mean() - rate) < 0.03  # 7,000 units: five standard errors
    assert not torch.equal(kept[0], kept[1])  # units are drawn anew for every step
    assert not torch.equal(kept[:, 0], kept[:, 1])  # and for every sequence


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_nothing_is_dropped(kind: str) -> None:
    layer, x = made(kind, dropout=0.5).eval(), torch.randn(T, B, I)
    plain = made(kind)
    plain.load_state_dict(layer.state_dict())
    assert_all_same(flat(layer(x)), flat(plain(x)))


def test_a_seed_drops_the_same_units_again() -> None:
    layer, x = unrolled.LSTM(I, H, num_layers=2, dropout=0.5), torch.randn(T, B, I)
    torch.manual_seed(3)
    first = layer(x)[0]
    assert not torch.equal(layer(x)[0], first)
    torch.manual_seed(3)
    assert torch.equal(layer(x)[0], first)


def test_dropout_with_one_layer_warns() -> None:
    with pytest.warns(UserWarning, match="num_layers=1"):
        unrolled.LSTM(I, H, dropout=0.5)
