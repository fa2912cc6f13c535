"""Features of a photo and the words so far in, scores of the next word out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unrolled import cells
from unrolled.attention import AdditiveAttention, DotAttention
from unrolled.dropout import LockedDropout
from unrolled.ensemble import DecoderOutput, Ensemble
from unrolled.kernels.linear import Linear, linear
from unrolled.layers import LAYERS
from unrolled.tasks.captioning.config import Config


class EncodedPhotos(NamedTuple):
    """What the decoder needs of N photos, computed once."""

    places: Tensor
    """a, (N, P, H)."""
    mean: Tensor
    """Of the places, (N, H)."""
    keys: Tensor
    """The attention's part that depends on the places alone, (N, P, ...); empty without attention."""


class Captioner(nn.Module):
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

    Captions of one photo stand together: B = N * g rows, the first g for the first photo. An `Ensemble` has the same methods.

    >>> model = Captioner(Config(hidden_size=8), vocabulary_size=20, feature_size=12)
    >>> photos = model.encode(torch.randn(3, 49, 12))
    >>> output = model(photos, torch.zeros(6, 5, dtype=torch.int64))  # two captions for each photo
    >>> output.logits.shape, output.weights.shape
    (torch.Size([6, 5, 20]), torch.Size([6, 5, 49]))
    """

    def __init__(self, config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        size, self.image, self.cell = config.hidden_size, config.image, config.cell
        self.state_parts = 2 if config.cell == "lstm" else 1  # h, or h and c
        self.attends = config.image.startswith("attention")
        self.norm = nn.LayerNorm(feature_size)
        self.keep = Linear(feature_size, size)
        self.embedding = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        self.embedding_scale = size**0.5 if config.tied else 1.0  # a tied table has the output layer's scale
        self.start = None if config.image == "every-step" else Linear(size, config.num_layers * self.state_parts * size)
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

    def encode(self, features: Tensor) -> EncodedPhotos:
        """features (N, P, F) -> what the decoder needs."""
        places = self.place_dropout(torch.relu(self.keep(self.norm(features.to(self.norm.weight.dtype)))))
        return EncodedPhotos(places, places.mean(1), self.attention.keys(places) if self.attends else places[..., :0])

    @property
    def members(self) -> list[Captioner]:
        """Itself: as `Ensemble.members`."""
        return [self]

    def initial_state(self, photos: EncodedPhotos, copies: int = 1) -> list[Tensor]:
        """The state before the first word, for `copies` captions of each photo: of each layer h, or h and c, all (B, H)."""
        count = len(self.layers) * self.state_parts
        if self.start is None:
            zeros = photos.mean.new_zeros(len(photos.mean) * copies, photos.mean.shape[1], dtype=self.norm.weight.dtype)
            return [zeros] * count
        state = self.start(photos.mean)
        state = torch.tanh(state) if self.attends else state
        return [part.repeat_interleave(copies, 0) for part in state.to(self.norm.weight.dtype).chunk(count, dim=-1)]

    def forward(
        self, photos: EncodedPhotos, words: Tensor, state: list[Tensor] | None = None, counted: Tensor | None = None
    ) -> DecoderOutput:
        """The scores after each of words (B, T), going on from `state`.

        With `counted` (B, T), the output layer is skipped where it is false: logits are then (number counted, V).
        """
        captions = words.shape[0] // len(photos.places)
        state = self.initial_state(photos, captions) if state is None else state
        before = [state[i : i + self.state_parts] for i in range(0, len(state), self.state_parts)]
        after: list[list[Tensor]] = []
        embedded = self.dropout(self.embedding(words) * self.embedding_scale)  # (B, T, H)
        x, z, weights = embedded, None, None
        if self.image == "every-step":
            v = photos.mean.repeat_interleave(captions, 0).unsqueeze(1).expand(-1, words.shape[1], -1)
            x = torch.cat([x, v.to(x.dtype)], dim=-1)
        for number, layer in enumerate(self.layers):
            if number == 0 and self.image == "attention":
                x, z, weights, last = self._attend_and_step(photos, x, before[0])
            else:
                x, last = self._run(layer, x, before[number])
            after.append(last)
            if number == 0 and self.image == "attention-between":
                z, weights = self._attend(photos, self.dropout(x))
                x = torch.cat([self.dropout(x), z.to(x.dtype)], dim=-1)
            elif number < len(self.layers) - 1:
                x = self.dropout(x)
        readout = torch.cat([self.dropout(x), embedded] if z is None else [self.dropout(x), z.to(x.dtype), embedded], dim=-1)
        deep = self.dropout(torch.tanh(self.deep(readout)))
        logits = self.output(deep if counted is None else deep[counted])
        return DecoderOutput(logits, [part for last in after for part in last], weights)

    def _run(self, layer: nn.Module, x: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        first = [part.unsqueeze(0) for part in before]
        output, last = layer(x, tuple(first) if len(first) > 1 else first[0])
        return output, [part.squeeze(0) for part in (last if isinstance(last, tuple) else (last,))]

    def _attend(self, photos: EncodedPhotos, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, T, H) -> the gated attended vectors (B, T, H) and the weights (B, T, P)."""
        steps, queries = h.shape[1], h.reshape(len(photos.places), -1, h.shape[-1])  # (N, g*T, H)
        z, weights = self.attention(queries, photos.places, photos.keys)
        z, weights = z.reshape(-1, steps, z.shape[-1]), weights.reshape(-1, steps, weights.shape[-1])
        return torch.sigmoid(self.gate(h)) * z, weights

    def _attend_and_step(
        self, photos: EncodedPhotos, x: Tensor, before: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The first layer where attention waits for the state: the words' part in one product, the rest step by step."""
        (w_ih, w_hh, b_ih, b_hh), size = self.layers[0].all_weights[0], x.shape[-1]  # type: ignore[misc, index]
        x_gates, w_iz = linear(x, w_ih[:, :size], b_ih), w_ih[:, size:]  # (B, T, G*H)
        step = {"rnn": cells.rnn_tanh_step, "gru": cells.gru_step}.get(self.cell)
        state, hs, zs, attended = list(before), [], [], []
        for t in range(x.shape[1]):
            z, weights = self._attend(photos, state[0].unsqueeze(1))
            gates = x_gates[:, t] + linear(z.squeeze(1), w_iz)
            state = [step(gates, state[0], w_hh, b_hh)] if step else list(cells.lstm_step(gates, *state, w_hh, b_hh))
            hs.append(state[0])
            zs.append(z)
            attended.append(weights)
        return torch.stack(hs, dim=1), torch.cat(zs, dim=1), torch.cat(attended, dim=1), state


def photo_features(model: Captioner | Ensemble, photos: Tensor, learns: bool) -> Tensor:
    """Photos as bytes (N, 3, height, width) -> features (N, P, F) by the model's CNN; features stay as they are.

    Unless the CNN `learns` from these photos, no gradient reaches it.
    """
    if model.encoder is None or photos.dim() != 4:
        return photos
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        return model.encoder(photos)


def build(config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None) -> Captioner | Ensemble:
    """The model of these settings; with `encoder`, a CNN that learns or has learned is a part of it."""
    for parameter in () if encoder is None else encoder.parameters():
        parameter.learning_rate_share = config.encoder_rate  # type: ignore[attr-defined]  # read by training.py
    if config.members == 1:
        return Captioner(config, vocabulary_size, feature_size, encoder)
    return Ensemble([Captioner(config, vocabulary_size, feature_size) for _ in range(config.members)], encoder)
