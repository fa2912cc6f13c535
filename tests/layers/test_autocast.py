"""Under autocast the layers compute in its precision."""

import copy

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, I, T, assert_all_same, flat, twins


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
