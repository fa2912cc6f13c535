"""Our layers and torch.nn's with the same weights, and what the tests of layers compare."""

import torch
from tests.tolerance import assert_same
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import unrolled

T, B, I, H = 5, 3, 4, 7
KINDS = {
    "rnn": (unrolled.RNN, nn.RNN, {}),
    "relu": (unrolled.RNN, nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (unrolled.LSTM, nn.LSTM, {}),
    "projected": (unrolled.LSTM, nn.LSTM, {"proj_size": 3}),
    "gru": (unrolled.GRU, nn.GRU, {}),
}
VARIANTS = [
    {},
    {"bidirectional": True},
    {"num_layers": 2, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]
OPTIONS = [{}, {"layer_norm": True}, {"zoneout": 0.2}, {"recurrent_dropout": 0.2}, {"learned_state": True}, {"save": "outputs"}]


class Seeing(TorchDispatchMode):
    """One who watches and changes nothing."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def twins(kind: str, dtype: torch.dtype = torch.float64, **variant):
    """One of our layers and torch's with the same weights."""
    ours, theirs, extra = KINDS[kind]
    theirs = theirs(I, H, **extra, **variant).to(dtype)
    ours = ours(I, H, **extra, **variant).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def flat(result) -> list[torch.Tensor]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]


def assert_all_same(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


def initial_state(layer) -> torch.Tensor | tuple[torch.Tensor, ...]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(count, B, layer.proj_size or H, dtype=torch.float64)
    return (h, torch.randn(count, B, H, dtype=torch.float64)) if layer.mode == "LSTM" else h
