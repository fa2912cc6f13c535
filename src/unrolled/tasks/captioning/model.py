"""Features of a photo and the words so far in, scores of the next word out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unrolled import cells
from unrolled.attention import AdditiveAttention, DotAttention
from unrolled.kernels.linear import Linear, linear
from unrolled.layers import GRU, LSTM, RNN
from unrolled.tasks.captioning.config import Config

LAYERS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
PARTS = {"rnn": 1, "lstm": 2, "gru": 1}


class Seen(NamedTuple):
    """What the decoder needs of N photos, computed once."""

    places: Tensor
    """a, (N, P, H)."""
    mean: Tensor
    """Of the places, (N, H)."""
    keys: Tensor
    """The attention's part that depends on the places alone, (N, P, ...); empty without attention."""

    @property
    def photos(self) -> int:
        """N."""
        return self.places.shape[0]

    @property
    def device(self) -> torch.device:
        return self.places.device

    def take(self, photos: Tensor | slice) -> Seen:
        """What there is of these photos."""
        return Seen(self.places[photos], self.mean[photos], self.keys[photos])


class SeenByAll(NamedTuple):
    """What each member of an `Ensemble` needs of N photos."""

    members: list[Seen]

    @property
    def photos(self) -> int:
        """N."""
        return self.members[0].photos

    @property
    def device(self) -> torch.device:
        return self.members[0].device

    def take(self, photos: Tensor | slice) -> SeenByAll:
        """What there is of these photos."""
        return SeenByAll([one.take(photos) for one in self.members])


class Written(NamedTuple):
    """What `Captioner` answers."""

    logits: Tensor
    """(B, T, V)"""
    state: list[Tensor]
    """After the last word: h, and for the LSTM c, of each layer, all (B, H)."""
    weights: Tensor | None
    """Where it looked for each word, (B, T, P); None without attention."""


class LockedDropout(nn.Module):
    """Dropout of the same units at every step of a sequence (B, T, H).

    Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks". Drawing a mask for
    every step took a sixth of a training step.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        kept = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) >= self.probability
        return x * (kept.to(x.dtype) / (1 - self.probability))


class _Looking(nn.Module):
    """Something with a CNN, if that learns or has learned."""

    def __init__(self, config: Config, encoder: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        for parameter in () if encoder is None else encoder.parameters():
            parameter.learning_rate_share = config.encoder_rate  # type: ignore[attr-defined]  # read by training.py

    def look(self, photos: Tensor, learns: bool) -> Tensor:
        """photos (N, 3, height, width) as bytes -> features (N, P, F); features stay as they are.

        Unless the CNN `learns` from these photos, no gradient reaches it.
        """
        if self.encoder is None or photos.dim() != 4:
            return photos
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return self.encoder(photos)


class Captioner(_Looking):
    """One-to-many: a photo, then word after word.

    v_p = dropout(relu(W LayerNorm(feature_p) + b)) keeps H channels of each place p of the CNN's map; v is their mean. The
    photo enters the recurrence in one of these ways, `config.image`:

    - `initial` (after Vinyals et al. 2015, Show and Tell): the state of every layer starts at an affine of v,
      h_0 = W_h v + b_h (and c_0 = W_c v + b_c).
    - `every-step`: an extra term in each gate, for the vanilla cell h_t = tanh(W_xh x_t + W_hh h_{t-1} + W_ih v). The state
      starts at zero. v stands beside the word in the input, so the layer's weight_ih is [W_xh W_ih].
    - `attention` (Xu et al. 2015, Show, Attend and Tell, eq. 1-9): h_0, c_0 = tanh(affine of v); before each step the first
      layer's h_{t-1} weighs the places; their weighted mean, gated by beta = sigmoid(W_b h_{t-1}), enters its gates: z_t stands
      beside the word.
    - `attention-between`: the first layer reads the words alone; its h_t weighs the places; [h_t, z_t] is what the second layer
      reads, as the language LSTM of Anderson et al. 2018 (Bottom-Up and Top-Down, eq. 5-7) does, whose attention LSTM also gets
      the language LSTM's last state. Without that, no step waits for the attention of another: with the words known, layers
      and attention run over all steps at once.

    Words leave by the deep output of Xu et al. (eq. 7): logits = L_o dropout(tanh(L_h h_t + L_z z_t + L_e e_t)),
    without L_z where there is no z.

    Captions of one photo stand together: B = N * g rows, the first g for the first photo.

    >>> model = Captioner(Config(hidden_size=8), vocabulary_size=20, feature_size=12)
    >>> seen = model.see(torch.randn(3, 49, 12))
    >>> written = model(seen, torch.zeros(6, 5, dtype=torch.int64))  # two captions for each photo
    >>> written.logits.shape, written.weights.shape
    (torch.Size([6, 5, 20]), torch.Size([6, 5, 49]))
    """

    def __init__(self, config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None = None) -> None:
        super().__init__(config, encoder)
        size, self.image, self.cell = config.hidden_size, config.image, config.cell
        self.attends = config.image.startswith("attention")
        self.norm = nn.LayerNorm(feature_size)
        self.keep = Linear(feature_size, size)
        self.embedding = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        self.embedding_scale = size**0.5 if config.tied else 1.0  # a tied table has the output layer's scale
        states = config.num_layers * PARTS[config.cell]
        self.start = None if config.image == "every-step" else Linear(size, states * size)
        wider = {"initial": (size, size), "every-step": (2 * size, size), "attention": (2 * size, size)}
        first, second = wider.get(config.image, (size, 2 * size))
        layer = LAYERS[config.cell]
        self.layers = nn.ModuleList(
            [layer(first if i == 0 else second if i == 1 else size, size, batch_first=True) for i in range(config.num_layers)]
        )
        if self.attends:
            self.attention = (
                AdditiveAttention(size, size) if config.attention == "additive" else DotAttention(size, size, config.heads)
            )
            self.gate = Linear(size, size)
        self.deep = Linear(size * (3 if self.attends else 2), size)
        self.output = Linear(size, vocabulary_size)
        if config.tied:
            self.output.weight = self.embedding.weight
        self.dropout, self.place_dropout = LockedDropout(config.dropout), nn.Dropout(min(0.1, config.dropout))

    def see(self, features: Tensor) -> Seen:
        """features (N, P, F), or photos as `look` takes them -> what the decoder needs."""
        features = self.look(features, learns=True)
        places = self.place_dropout(torch.relu(self.keep(self.norm(features.to(self.norm.weight.dtype)))))
        return Seen(places, places.mean(1), self.attention.keys(places) if self.attends else places[..., :0])

    @property
    def members(self) -> list[Captioner]:
        """What learns: as `Ensemble.members`."""
        return [self]

    def begin(self, seen: Seen, captions: int = 1) -> list[Tensor]:
        """The state before the first word, for `captions` of each photo."""
        count = len(self.layers) * PARTS[self.cell]
        if self.start is None:
            zeros = seen.mean.new_zeros(seen.mean.shape[0] * captions, seen.mean.shape[1], dtype=self.norm.weight.dtype)
            return [zeros] * count
        state = self.start(seen.mean)
        state = torch.tanh(state) if self.attends else state
        return [part.repeat_interleave(captions, 0) for part in state.to(self.norm.weight.dtype).chunk(count, dim=-1)]

    def forward(self, seen: Seen, words: Tensor, state: list[Tensor] | None = None, counted: Tensor | None = None) -> Written:
        """The scores after each of words (B, T), going on from `state`.

        With `counted` (B, T), the output layer is spared where it is false: logits are then (number counted, V).
        """
        captions = words.shape[0] // seen.photos
        state = self.begin(seen, captions) if state is None else state
        parts = PARTS[self.cell]
        before = [state[i : i + parts] for i in range(0, len(state), parts)]
        after: list[list[Tensor]] = []
        embedded = self.dropout(self.embedding(words) * self.embedding_scale)  # (B, T, H)
        x, z, weights = embedded, None, None
        if self.image == "every-step":
            v = seen.mean.repeat_interleave(captions, 0).unsqueeze(1).expand(-1, words.shape[1], -1)
            x = torch.cat([x, v.to(x.dtype)], dim=-1)
        for number, layer in enumerate(self.layers):
            if number == 0 and self.image == "attention":
                x, z, weights, last = self._attend_and_step(seen, x, before[0])
            else:
                x, last = self._run(layer, x, before[number])
            after.append(last)
            if number == 0 and self.image == "attention-between":
                z, weights = self._attend(seen, self.dropout(x))
                x = torch.cat([self.dropout(x), z.to(x.dtype)], dim=-1)
            elif number < len(self.layers) - 1:
                x = self.dropout(x)
        told = torch.cat([self.dropout(x), embedded] if z is None else [self.dropout(x), z.to(x.dtype), embedded], dim=-1)
        deep = self.dropout(torch.tanh(self.deep(told)))
        logits = self.output(deep if counted is None else deep[counted])
        return Written(logits, [part for last in after for part in last], weights)

    def _run(self, layer: nn.Module, x: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        first = [part.unsqueeze(0) for part in before]
        output, last = layer(x, tuple(first) if len(first) > 1 else first[0])
        return output, [part.squeeze(0) for part in (last if isinstance(last, tuple) else (last,))]

    def _attend(self, seen: Seen, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, T, H) -> the gated attended vectors (B, T, H) and the weights (B, T, P)."""
        photos, steps = seen.photos, h.shape[1]
        z, weights = self.attention(h.reshape(photos, -1, h.shape[-1]), seen.places, seen.keys)  # (N, g*T, ...)
        z, weights = z.reshape(-1, steps, z.shape[-1]), weights.reshape(-1, steps, weights.shape[-1])
        return torch.sigmoid(self.gate(h)) * z, weights

    def _attend_and_step(self, seen: Seen, x: Tensor, before: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The first layer where attention waits for the state: the words' part in one product, the rest step by step."""
        (w_ih, w_hh, b_ih, b_hh), size = self.layers[0].all_weights[0], x.shape[-1]  # type: ignore[misc, index]
        x_gates, w_iz = linear(x, w_ih[:, :size], b_ih), w_ih[:, size:]  # (B, T, G*H)
        step = {"rnn": cells.rnn_tanh_step, "gru": cells.gru_step}.get(self.cell)
        state, hs, zs, looked = list(before), [], [], []
        for t in range(x.shape[1]):
            z, weights = self._attend(seen, state[0].unsqueeze(1))
            gates = x_gates[:, t] + linear(z.squeeze(1), w_iz)
            state = [step(gates, state[0], w_hh, b_hh)] if step else list(cells.lstm_step(gates, *state, w_hh, b_hh))
            hs.append(state[0])
            zs.append(z)
            looked.append(weights)
        return torch.stack(hs, dim=1), torch.cat(zs, dim=1), torch.cat(looked, dim=1), state


class Ensemble(_Looking):
    """Captioners on one CNN, which differ by their first weights and their dropout; together they write by the mean of their
    probabilities, and so better than any of them. Each learns by a loss of its own, `members`; the CNN by the mean of these.

    >>> model = Ensemble(Config(hidden_size=8, members=3), vocabulary_size=20, feature_size=12)
    >>> written = model(model.see(torch.randn(3, 49, 12)), torch.zeros(6, 5, dtype=torch.int64))
    >>> written.logits.exp().sum(-1).allclose(torch.ones(6, 5))
    True
    """

    def __init__(self, config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None = None) -> None:
        super().__init__(config, encoder)
        self.members = nn.ModuleList([Captioner(config, vocabulary_size, feature_size) for _ in range(config.members)])

    def see(self, features: Tensor) -> SeenByAll:
        """As `Captioner.see`."""
        features = self.look(features, learns=True)
        return SeenByAll([one.see(features) for one in self.members])  # type: ignore[operator]  # of a ModuleList

    def begin(self, seen: SeenByAll, captions: int = 1) -> list[Tensor]:
        """As `Captioner.begin`: the first member's, then the second's, and so on."""
        each = zip(self.members, seen.members, strict=True)
        return [part for one, seen_by_it in each for part in one.begin(seen_by_it, captions)]  # type: ignore[operator]  # of a ModuleList

    def forward(
        self, seen: SeenByAll, words: Tensor, state: list[Tensor] | None = None, counted: Tensor | None = None
    ) -> Written:
        """As `Captioner.forward`; logits are log probabilities, weights the members' mean."""
        state = self.begin(seen, words.shape[0] // seen.photos) if state is None else state
        each, share = [], len(state) // len(self.members)
        for number, (one, seen_by_it) in enumerate(zip(self.members, seen.members, strict=True)):
            each.append(one(seen_by_it, words, state[number * share : (number + 1) * share], counted))
        log_p = torch.stack([torch.log_softmax(written.logits.float(), dim=-1) for written in each])
        looked = [written.weights for written in each if written.weights is not None]
        weights = torch.stack(looked).mean(0) if looked else None
        return Written(log_p.logsumexp(0) - math.log(len(each)), [part for written in each for part in written.state], weights)


def build(config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None) -> Captioner | Ensemble:
    """The model of these settings."""
    kind = Captioner if config.members == 1 else Ensemble
    return kind(config, vocabulary_size, feature_size, encoder)
