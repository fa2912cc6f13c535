"""Under autocast the layers compute in its precision."""

import torch
from tests.layers.twins import B, H, I, T
from tests.tolerance import assert_same

import unrolled


def test_autocast_gives_bfloat16() -> None:
    layer, x = unrolled.GRU(I, H), torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(layer(x)[0].float().to(torch.bfloat16), layer(x)[0].to(torch.bfloat16))
    assert layer(x)[0].dtype == torch.float32
