"""Layers, parts and inputs that cannot be streamed are refused, with the reason."""

import pytest
import torch
from tests.streaming.reference import CELLS
from torch import nn

import unrolled
from unrolled import streaming
from unrolled.streaming import Streamer, supported


class Watched(torch.Tensor):
    """More than numbers in memory."""


def with_a_subclass() -> nn.Module:
    layers = nn.GRU(3, 4)
    layers.weight_hh_l0 = nn.Parameter(layers.weight_hh_l0.detach().as_subclass(Watched))
    return layers


@pytest.mark.parametrize(
    ("layers", "precision", "reason"),
    [
        (lambda: nn.LSTM(3, 4, bidirectional=True), "fp32", "second direction"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "fp32", "proj_size=2"),
        (lambda: unrolled.GRU(3, 4, layer_norm=True), "fp32", "layer_norm=True"),
        (lambda: nn.GRU(3, 4).double(), "fp32", "torch.float64"),
        (lambda: nn.GRU(3, 4, device="meta"), "fp32", "meta"),
        (lambda: nn.Linear(3, 4), "fp32", "Linear is not an RNN"),
        (with_a_subclass, "fp32", "Watched, that is not plain numbers in memory"),
        (lambda: nn.GRU(3, 4), "int4", "not 'int4'"),
        (lambda: nn.RNN(70_000, 1), "int8", "wider than 65536"),
    ],
)
def test_what_cannot_be_streamed_says_why(layers, precision: str, reason: str) -> None:
    layers = layers()
    assert reason in (supported(layers, precision) or "")
    with pytest.raises(ValueError, match=reason):
        Streamer(layers, precision=precision)


def test_what_can_be_streamed_has_no_reason_against() -> None:
    for make in CELLS.values():
        for precision in streaming.PRECISIONS:
            assert supported(make(3, 4, 2), precision) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_hot": True, "embedding": torch.zeros(5, 3)}, "got both"),
        ({"embedding": torch.zeros(5, 4)}, r"embedding of shape \(V, 3\), got \(5, 4\)"),
        ({"decoder_weight": torch.zeros(5, 3)}, r"decoder_weight of shape \(V, 4\), got \(5, 3\)"),
        ({"decoder_weight": torch.zeros(5, 4), "decoder_bias": torch.zeros(4)}, r"decoder_bias of shape \(5,\), got \(4,\)"),
        ({"decoder_bias": torch.zeros(4)}, "got None"),
        ({"isa": "sse"}, "got 'sse'"),
        ({"embedding": torch.zeros(5, 3).as_subclass(Watched)}, "got a Watched"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Streamer(nn.GRU(3, 4), **options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    streamer = Streamer(nn.LSTM(3, 4, 2))
    for wrong in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(1, 4), torch.zeros(1, 1, 3)):
        with pytest.raises(ValueError, match=r"\(B, I\) = \(1, 3\), got"):
            streamer.step(wrong)
    with pytest.raises(ValueError, match=r"dtype torch\.float32, got torch\.int64"):
        streamer.step(torch.zeros(1, 3, dtype=torch.int64))
    tokens = Streamer(nn.LSTM(3, 4), one_hot=True)
    for dtype in (torch.bool, torch.complex64, torch.float32):
        with pytest.raises(ValueError, match=r"dtype torch\.int64, got"):
            tokens.step(torch.ones(1, dtype=dtype))
    for wrong in (torch.zeros(()), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match=r"\(B, I\)"):
            streamer.advance(wrong)
    x, good = torch.zeros(2, 3), torch.zeros(2, 2, 4)
    for state in (good, (good,), (good, good, good), (good, None)):
        with pytest.raises(ValueError, match=r"\(h, c\)|c of shape"):
            streamer.advance(x, state)
    for state in ((good[:1], good), (good, torch.zeros(2, 3, 4))):
        with pytest.raises(ValueError, match=r"\(L, B, H\) = \(2, 2, 4\)"):
            streamer.advance(x, state)
    with pytest.raises(ValueError, match=r"h of shape"):
        streamer.set_state((torch.zeros(1, 1, 4), torch.zeros(2, 1, 4)))
    streamer.advance(x, [good, good])  # a list is welcome
