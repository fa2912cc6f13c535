"""The recurrent attention model: what it sees of an image, it decides itself (Mnih, Heess, Graves and Kavukcuoglu 2014).

For each image x and glimpses t = 1..T, from h_0 = 0:

    mu_t = tanh(W_l h_{t-1} + b_l)                            where the policy looks; h_{t-1} without its gradient
    l_t  ~ Normal(mu_t, deviation)                            hard;  l_t = mu_t soft;  Uniform(-1, 1) random
    rho  = retina(x, l_t)
    g_t  = relu(W_1 relu(W_rho rho + b_rho) + W_2 relu(W_where l_t + b_where) + b_g)
    h_t  = relu(W_ih g_t + b_ih + W_hh h_{t-1} + b_hh)        or an LSTM's or a GRU's step
    P(class | glimpses up to t) = softmax(W_a h_t + b_a)

The paper draws the first place at random; here it is the policy's too, from a state that has seen nothing, so that one rule
holds for all. Soft looks through gradients that reach l_t and, by it, h_{t-1}.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.cell_layers import GRUCell, LSTMCell, RNNCell
from unrolled.kernels.linear import Linear
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.retina import Retina


class Looked(NamedTuple):
    """What came of looking at N images T times."""

    scores: Tensor
    """(T, N, K), of each class after each glimpse; their softmax is the probability."""
    places: Tensor
    """(T, N, 2), y and x of each glimpse as drawn; -1 and 1 are the edges, and what is drawn beyond them looks there."""
    means: Tensor
    """(T, N, 2), of the policy that they were drawn from; the places where there is none."""
    values: Tensor | None
    """(T, N), the reward that the baseline expects before each glimpse; None unless attention is hard."""


class Glimpses(nn.Module):
    """The network.

    Args:
        config: the settings.
        channels: of an image, 1 or 3.
        classes: how many there are.
    """

    def __init__(self, config: Config, channels: int, classes: int) -> None:
        super().__init__()
        hidden, features = config.hidden_size, config.glimpse_features
        self.attention, self.deviation = config.attention, config.deviation
        self.glimpses, self.size, self.scales = config.glimpses, config.glimpse_size, config.scales
        self.what = Linear(channels * config.scales * config.glimpse_size**2, features)
        self.where = Linear(2, features)
        self.joined = Linear(2 * features, hidden)
        self.core = cell(config.cell, hidden)
        self.classify = Linear(hidden, classes)
        self.policy = None if config.attention == "random" else policy(hidden)
        self.baseline = Linear(hidden, 1) if config.attention == "hard" else None

    def forward(
        self, images: Tensor, *, glimpses: int | None = None, generator: torch.Generator | None = None, drawn: bool = True
    ) -> Looked:
        """Look at images (N, C, height, width), 0..1.

        Args:
            images: of any size, the same in a batch.
            glimpses: T; by default the settings'.
            generator: what places are drawn from; by default torch's own.
            drawn: whether places are drawn from the policy; else they are its means.
        """
        retina = Retina(images, self.size, self.scales)
        state: Any = None
        h = images.new_zeros(len(images), self.classify.in_features)
        states, places, means = [h], [], []
        for _ in range(self.glimpses if glimpses is None else glimpses):
            told = h if self.attention == "soft" else h.detach()
            place, mean = next_place(self.policy, told, self, generator, drawn)
            seen = retina.look(place, between=self.attention == "soft")
            both = torch.relu(self.what(seen.flatten(1))), torch.relu(self.where(place.clamp(-1, 1)))
            state = self.core(torch.relu(self.joined(torch.cat(both, 1))), state)
            h = output(state)
            states.append(h)
            places.append(place)
            means.append(mean)
        before = torch.stack(states[:-1])
        values = None if self.baseline is None else wide(self.baseline(before.detach())).squeeze(2)
        return Looked(wide(self.classify(torch.stack(states[1:]))), torch.stack(places), torch.stack(means), values)


def wide(x: Tensor) -> Tensor:
    """In fp32 at least: bf16 has too few digits for a place, a probability and a sum of rewards."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def next_place(
    policy: nn.Module | None, h: Tensor, model: Any, generator: torch.Generator | None, drawn: bool
) -> tuple[Tensor, Tensor]:
    """The place of the next glimpse (N, 2), and the mean that it was drawn from, by `model.attention` and `model.deviation`."""
    if policy is None:
        place = 2 * torch.rand(len(h), 2, generator=generator, device=h.device, dtype=h.dtype) - 1
        return place, place
    mean = torch.tanh(wide(policy(h)))
    if model.attention == "soft":
        return mean, mean
    if not drawn:
        return mean.detach(), mean
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return torch.add(mean.detach(), noise, alpha=model.deviation), mean


def policy(hidden: int) -> nn.Linear:
    """W_l and b_l. It begins in the middle: from places by chance at the edge it would be hard to get away."""
    layer = Linear(hidden, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def cell(kind: str, hidden: int) -> nn.Module:
    if kind == "rnn":
        return RNNCell(hidden, hidden, nonlinearity="relu")
    return (LSTMCell if kind == "lstm" else GRUCell)(hidden, hidden)


def output(state: Any) -> Tensor:
    """h of a cell's state."""
    return state[0] if isinstance(state, tuple) else state
