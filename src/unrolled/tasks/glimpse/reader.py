"""Reading several objects of an image, one after another: the deep recurrent attention model (Ba, Mnih and Kavukcuoglu 2015).

For each image x and glimpses t = 1..T, of which every N in a row read one symbol:

    q_0  = tanh(W_x relu(W_c coarse(x) + b_c) + b_x)          the whole image at low resolution says where to begin; h_0 = 0
    mu_t = tanh(W_l q_{t-1} + b_l)                            where the policy looks
    l_t  ~ Normal(mu_t, deviation)                            hard;  l_t = mu_t soft;  Uniform(-1, 1) random
    rho  = retina(x, l_t)
    g_t  = relu(W_2 relu(W_rho rho + b_rho) + b_2) * relu(W_where l_t + b_where)          section 3, "glimpse network"
    h_t  = LSTM(g_t, h_{t-1}),  q_t = LSTM(h_t, q_{t-1})      or the cell of the settings
    P(symbol s | glimpses up to t = s N) = softmax(W_a h_t + b_a)

The last of the symbols is END, after which there is nothing to read. What is said comes from h alone, which has seen no more
than the glimpses; q, which has seen the whole image, only looks. No symbol is fed back. Where q has a cell (LSTM), it begins as
q_0, too.

Other than in the paper: products with matrices read what is in a glimpse, and the coarse image, instead of three layers of
convolutions; the place and the symbol have no hidden layer of their own; the reward is the probability of the right symbol,
instead of 1 or 0 for what was most probable; and places may be learned by gradients, too (soft).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from unrolled.kernels.linear import Linear
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.model import Looked, cell, next_place, output, policy, wide
from unrolled.tasks.glimpse.retina import Retina

COARSE = 12
"""Height and width of the whole image as the context network sees it."""


class Reader(nn.Module):
    """The network.

    Args:
        config: the settings; `glimpses` is N, and `objects` how many symbols there are at most.
        channels: of an image, 1 or 3.
        symbols: how many there are, END among them.
    """

    def __init__(self, config: Config, channels: int, symbols: int) -> None:
        super().__init__()
        hidden, features = config.hidden_size, config.glimpse_features
        self.attention, self.deviation = config.attention, config.deviation
        self.per_symbol, self.objects = config.glimpses, config.objects
        self.size, self.scales = config.glimpse_size, config.scales
        self.coarse = Linear(channels * COARSE**2, hidden)
        self.context = Linear(hidden, hidden)
        self.pixels = Linear(channels * config.scales * config.glimpse_size**2, features)
        self.what = Linear(features, hidden)
        self.where = Linear(2, hidden)
        nn.init.ones_(self.where.bias)  # a factor, which begins near 1
        self.reading, self.looking = cell(config.cell, hidden), cell(config.cell, hidden)
        self.classify = Linear(hidden, symbols)
        self.policy = None if config.attention == "random" else policy(hidden)
        self.baseline = Linear(hidden, 1) if config.attention == "hard" else None

    def forward(
        self, images: Tensor, *, glimpses: int | None = None, generator: torch.Generator | None = None, drawn: bool = True
    ) -> Looked:
        """Read images (N, C, height, width), 0..1: `glimpses` for each of the symbols and for END, by default the settings'."""
        retina = Retina(images, self.size, self.scales)
        coarse = torch.relu(self.coarse(adaptive_avg_pool2d(images, COARSE).flatten(1)))
        begin = torch.tanh(self.context(coarse))
        reading: Any = None
        looking: Any = (begin, begin) if isinstance(self.looking, nn.LSTMCell) else begin
        read, looked, places, means = [], [begin], [], []
        for _ in range((glimpses or self.per_symbol) * (self.objects + 1)):
            place, mean = next_place(self.policy, looked[-1], self, generator, drawn)
            seen = retina.look(place, between=self.attention == "soft").flatten(1)
            what, where = self.what(torch.relu(self.pixels(seen))), self.where(place.clamp(-1, 1))
            reading = self.reading(torch.relu(what) * torch.relu(where), reading)
            read.append(output(reading))
            looking = self.looking(read[-1], looking)
            looked.append(output(looking))
            places.append(place)
            means.append(mean)
        before = torch.stack(looked[:-1]).detach()
        values = None if self.baseline is None else wide(self.baseline(before)).squeeze(2)
        return Looked(wide(self.classify(torch.stack(read))), torch.stack(places), torch.stack(means), values)
