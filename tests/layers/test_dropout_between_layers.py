"""Dropout acts between layers, in training only."""

import pytest
import torch
from tests.layers.twins import B, H, I, T

import unrolled


def test_dropout_acts_between_layers_in_training_only() -> None:
    layer = unrolled.LSTM(I, H, num_layers=2, dropout=0.5)
    x = torch.randn(T, B, I)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    torch.manual_seed(3)
    first = layer(x)[0]
    torch.manual_seed(3)
    assert torch.equal(layer(x)[0], first)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.dropout = 1.0
    layer.train()
    silent, _ = unrolled.LSTM(H, H)(torch.zeros(T, B, H))
    assert layer(x)[0].shape == silent.shape


def test_dropout_with_one_layer_warns() -> None:
    with pytest.warns(UserWarning, match="num_layers=1"):
        unrolled.LSTM(I, H, dropout=0.5)
