"""Under autocast the layers compute in its precision."""

import copy
from functools import partial

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, I, T, assert_all_same, flat, twins
from tests.tolerance import assert_same
from torch import nn

import unrolled


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_as_a_layer_of_bfloat16_does(kind: str, variant: dict, masked: bool) -> None:
    layer, _ = twins(kind, torch.float32, **variant)
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)))
    how = {"lengths": torch.tensor([5, 0, 3]), "resets": torch.rand(x.shape[:2]) < 0.3} if masked else {}
    exact = flat(layer(x, **how))
    assert [part.dtype for part in exact] == [torch.float32] * len(exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = flat(layer(x, **how))
    assert [part.dtype for part in got] == [torch.bfloat16] * len(got)
    assert_all_same(got, flat(copy.deepcopy(layer).bfloat16()(x.bfloat16(), **how)))
    assert_all_same(got, exact)
    assert not torch.equal(got[0].float(), exact[0])


@pytest.mark.parametrize("forward", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        *(getattr(unrolled, name) for name in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")),
        partial(unrolled.LSTM, layer_norm=True),
        partial(unrolled.GRU, save="outputs"),
    ],
)
def test_backward_may_be_under_autocast_where_forward_was_not_and_the_other_way_round(make, forward: bool) -> None:
    layer, found = make(I, 7), []
    x = torch.randn(B, I) if isinstance(layer, nn.RNNCellBase) else torch.randn(T, B, I)
    for under in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=under and forward):
            output = layer(x)
        while isinstance(output, tuple):
            output = output[0]
        with torch.autocast("cpu", torch.bfloat16, enabled=under and not forward):
            found.append(torch.autograd.grad(output.float().square().mean(), list(layer.parameters())))
    for mixed, exact in zip(found[1], found[0], strict=True):
        assert mixed.dtype == torch.float32
        assert_same(mixed.bfloat16(), exact)
