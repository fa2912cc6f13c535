"""Features of a photo and the words so far in, scores of the next word out."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from unrolled.attention import AdditiveAttention, DotAttention
from unrolled.decoder import Decoder, Memory, Place
from unrolled.ensemble import Ensemble
from unrolled.kernels.linear import Linear
from unrolled.tasks.captioning.config import Config

PLACES: dict[str, Place] = {"attention": "before", "attention-between": "between"}
"""Of the decoder's attention, by `Config.image`."""


class Captioner(Decoder):
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
    - `attention-between`: the same between the first layer and the second, see `unrolled.decoder.Decoder`.

    >>> model = Captioner(Config(hidden_size=8), vocabulary_size=20, feature_size=12)
    >>> photos = model.encode(torch.randn(3, 49, 12))
    >>> output = model(photos, torch.zeros(6, 5, dtype=torch.int64))  # two captions for each photo
    >>> output.logits.shape, output.weights.shape
    (torch.Size([6, 5, 20]), torch.Size([6, 5, 49]))
    """

    def __init__(self, config: Config, vocabulary_size: int, feature_size: int, encoder: nn.Module | None = None) -> None:
        size, attends = config.hidden_size, config.image in PLACES
        keep = Linear(feature_size, size)
        attention = AdditiveAttention if config.attention == "additive" else partial(DotAttention, heads=config.heads)
        super().__init__(
            vocabulary_size,
            size=size,
            num_layers=config.num_layers,
            cell=config.cell,
            attention=attention if attends else None,
            place=PLACES.get(config.image, "between"),
            gated=attends,
            each_step=config.image == "every-step",
            start_size=None if config.image == "every-step" else size,
            tied=config.tied,
            dropout=config.dropout,
        )
        self.encoder, self.norm, self.keep = encoder, nn.LayerNorm(feature_size), keep
        self.place_dropout = nn.Dropout(min(0.1, config.dropout))

    def encode(self, features: Tensor) -> Memory:
        """features (N, P, F) -> what the decoder needs."""
        dtype = self.norm.weight.dtype
        places = self.place_dropout(torch.relu(self.keep(self.norm(features.to(dtype)))))  # (N, P, H)
        v = places.mean(1)
        keys = self.attention.keys(places) if self.attention else places[..., :0]
        if self.start is None:
            zeros = v.new_zeros(len(v), len(self.layers) * self.state_parts * v.shape[1], dtype=dtype)
            return Memory(places, keys, zeros, each_step=v)
        start = self.start(v)
        return Memory(places, keys, (torch.tanh(start) if self.attention else start).to(dtype))


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
