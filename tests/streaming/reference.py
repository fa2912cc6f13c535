"""Plain cells in float64, and the models that the tests of streaming compare with them."""

import copy
import math

import torch
from torch import Tensor, nn

from unrolled import streaming
from unrolled.streaming import Streamer

CELLS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
SIZES = [(1, 1, 1, 1), (3, 15, 2, 3), (7, 16, 1, 1), (16, 17, 3, 2), (33, 31, 1, 4), (5, 32, 2, 5), (20, 33, 1, 7),
         (67, 67, 2, 1), (64, 100, 1, 6)]  # I, H, L, B  # fmt: skip
SCORES = torch.tensor([1.0, -2.0, 2.0, 0.5, 0.0, 2.0, -8.0, 1.5, 0.7, -0.5, 0.1])


def variants() -> list[tuple[str, str]]:
    """Every precision with every instruction set that this machine has for it."""
    return [(precision, isa) for precision in streaming.PRECISIONS for isa in streaming.isas(precision)]


def exact(layers: nn.Module, x: Tensor, state=None) -> tuple[Tensor, object]:
    """The layers over x (T, B, I), in float64 and by their cells."""
    layers, x = copy.deepcopy(layers).double(), x.double()
    lstm = layers.mode == "LSTM"
    parts = None if state is None else state if lstm else (state,)
    last = []
    for layer, (w_ih, w_hh, *bias) in enumerate(layers.all_weights):
        b_ih, b_hh = bias or (0, 0)
        h, c = (x.new_zeros(x.shape[1], layers.hidden_size) for _ in range(2))
        if parts is not None:
            h, c = parts[0][layer].double(), parts[-1][layer].double()
        outputs = []
        for x_t in x:
            x_gates, h_gates = x_t @ w_ih.T + b_ih, h @ w_hh.T + b_hh
            if lstm:
                i, f, g, o = (x_gates + h_gates).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            elif layers.mode == "GRU":
                (x_r, x_z, x_n), (h_r, h_z, h_n) = x_gates.chunk(3, -1), h_gates.chunk(3, -1)
                z = (x_z + h_z).sigmoid()
                h = (1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h
            else:
                h = (x_gates + h_gates).tanh() if layers.mode == "RNN_TANH" else (x_gates + h_gates).relu()
            outputs.append(h)
        x = torch.stack(outputs)
        last.append((h, c))
    h, c = (torch.stack(part).detach() for part in zip(*last, strict=True))
    return x.detach(), (h, c) if lstm else h


def parts(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_near(actual, expected, tolerance: float) -> None:
    for a, e in zip(parts(actual), parts(expected), strict=True):
        assert a.shape == e.shape
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance)


def random_state(layers: nn.Module, batch: int):
    shape = (layers.num_layers, batch, layers.hidden_size)
    h = torch.rand(shape) * 2 - 1
    return (h, torch.randn(shape)) if layers.mode == "LSTM" else h


class Model(nn.Module):
    def __init__(self, cell: str = "LSTM", V: int = 23, H: int = 35, L: int = 2) -> None:
        super().__init__()
        self.embedding, self.layers, self.decoder = nn.Embedding(V, 12), CELLS[cell](12, H, L), nn.Linear(H, V)
        with torch.no_grad():
            self.decoder.weight.mul_(8)  # decided scores

    def streamer(self, **options) -> Streamer:
        return Streamer(
            self.layers,
            embedding=self.embedding.weight,
            decoder_weight=self.decoder.weight,
            decoder_bias=self.decoder.bias,
            **options,
        )

    @torch.no_grad()
    def greedy(self, context: list[int], length: int, forbidden: tuple = ()) -> list[int]:
        tokens, state, read = [], None, context
        for _ in range(length):
            hidden, state = self.layers(self.embedding(torch.tensor(read))[:, None], state)
            scores = self.decoder(hidden[-1, 0])
            scores[list(forbidden)] = -math.inf
            tokens.append(int(scores.argmax()))
            read = tokens[-1:]
        return tokens


def fixed_scores(scores: Tensor, **options) -> Streamer:
    """A model whose scores are the same at every step: weights of zero, scores in the decoder's bias."""
    V = len(scores)
    layers = nn.GRU(V, 3)
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    return Streamer(layers, one_hot=True, decoder_weight=torch.zeros(V, 3), decoder_bias=scores, **options)
