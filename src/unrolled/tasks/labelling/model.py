"""A sequence in, scores of labels out: a front made for what a step is, recurrent layers, and an output layer."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unrolled.crf import ConditionalRandomField
from unrolled.dropout import LockedDropout
from unrolled.errors import ConfigError
from unrolled.kernels.linear import Linear
from unrolled.layers import LAYERS
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import PAD, UNKNOWN, Encoding

Inputs = dict[str, Tensor]
"""What `Encoding.collate` makes of B sequences: tensors by name with the batch in dimension 0, `lengths` (B,) among them."""
State = Tensor | tuple[Tensor, Tensor] | None


class Output(NamedTuple):
    """What the model says."""

    scores: Tensor
    """Per step (B, T, L), per sequence (B, L): before softmax, or of several labels at once before the sigmoid."""
    state: State
    """Of the recurrent layers after the last step, to go on from; None without any."""


class Labeller(nn.Module):
    """Front, recurrence, output.

    x = front(inputs); h = recurrence(x); per step s_t = W h_t + b; per sequence s = W [last states of the top layer] + b.

    Args:
        config: the settings.
        encoding: what is known of the inputs, and the labels.
    """

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__()
        self.per_step = config.per == "step"
        self.front = front(config, encoding)
        width = self.front.size
        self.dropout = LockedDropout(config.dropout)
        self.layers: nn.Module | None = None
        if config.cell != "none":
            self.layers = LAYERS[config.cell](
                width,
                config.hidden_size,
                config.num_layers,
                batch_first=True,
                dropout=config.dropout if config.num_layers > 1 else 0.0,
                bidirectional=config.bidirectional,
            )
            width = config.hidden_size * (2 if config.bidirectional else 1)
        self.output = Linear(width, len(encoding.labels))
        self.crf = ConditionalRandomField(len(encoding.labels)) if config.crf else None

    def forward(self, inputs: Inputs, state: State = None) -> Output:
        """inputs as `Encoding.collate` makes them -> scores. With a `state` it goes on from there (one direction only)."""
        lengths = inputs["lengths"]
        x = self.dropout(self.front(inputs))  # (B, T, F)
        if self.layers is not None:
            x, state = self.layers(x, state, lengths=lengths)
        if not self.per_step:
            x = self._whole(x, state, lengths)
        return Output(self.output(self.dropout(x) if self.per_step else self.dropout(x.unsqueeze(1)).squeeze(1)), state)

    def _whole(self, x: Tensor, state: State, lengths: Tensor) -> Tensor:
        """Of each sequence one vector (B, D*H): the last states of the top layer; without recurrence the mean over its
        steps."""
        if self.layers is None:
            return mean_over_steps(x, lengths)
        h = state[0] if isinstance(state, tuple) else state  # (L*D, B, H)
        assert isinstance(h, Tensor)
        directions = 2 if self.layers.bidirectional else 1
        return h[-directions:].transpose(0, 1).flatten(1)


def mean_over_steps(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, F) -> (B, F), padding not counted."""
    mask = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)
    return (x * mask.unsqueeze(-1)).sum(1) / lengths.clamp(min=1).unsqueeze(1)


def front(config: Config, encoding: Encoding) -> Words | Characters | Images | Numbers:
    """What turns a step's input into a vector, by what a step is; its width is `size`."""
    if encoding.kind == "words":
        return Words(config, encoding)
    if encoding.kind == "characters":
        return Characters(config, encoding)
    if len(encoding.shape) == 3:
        return Images(config, encoding)
    return Numbers(config, encoding)


class Words(nn.Module):
    """A word's embedding beside the last states of an LSTM that reads its letters in both directions (Ling et al. 2015, Plank
    et al. 2016). In training some words are read as unknown, so that their letters have to do.

    A word that a batch has several times is read once.
    """

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__()
        self.word_dropout = config.word_dropout
        self.embedding = nn.Embedding(2 + len(encoding.words), config.embedding_size, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=config.embedding_size**-0.5)
        self.size = config.embedding_size
        self.letters: nn.Module | None = None
        if config.character_size:
            self.letter = nn.Embedding(2 + len(encoding.characters), config.character_size, padding_idx=PAD)
            self.dropout = LockedDropout(config.dropout)
            self.letters = LAYERS["lstm"](config.character_size, config.character_size, batch_first=True, bidirectional=True)
            self.size += 2 * config.character_size

    def forward(self, inputs: Inputs) -> Tensor:
        words = inputs["words"]  # (B, T)
        if self.training and self.word_dropout:
            unknown = (torch.rand(words.shape, device=words.device) < self.word_dropout) & (words != PAD)
            words = torch.where(unknown, UNKNOWN, words)
        x = self.embedding(words)
        if self.letters is None:
            return x
        numbers, place = inputs["forms"].flatten().unique(return_inverse=True)
        first = place.new_zeros(len(numbers)).scatter_(0, place, torch.arange(len(place), device=place.device))
        spelled = self.spell(inputs["characters"].flatten(0, 1)[first])  # (U, 2C)
        return torch.cat([x, spelled[place].unflatten(0, words.shape)], dim=-1)

    def spell(self, characters: Tensor) -> Tensor:
        """Letters of U words (U, C), PAD behind each -> (U, 2 * character_size)."""
        assert self.letters is not None
        _, (h, _) = self.letters(self.dropout(self.letter(characters)), lengths=(characters != PAD).sum(1))
        return h.transpose(0, 1).flatten(1)


class Characters(nn.Module):
    """A character's embedding."""

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__()
        self.size = config.embedding_size
        self.embedding = nn.Embedding(2 + len(encoding.characters), self.size, padding_idx=PAD)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.embedding(inputs["characters"])


class Numbers(nn.Module):
    """Numbers, normalised by the training data's mean and standard deviation; then nothing, a linear map or a convolution."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(encoding.mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(encoding.deviation), persistent=False)
        usual = {"audio": "conv", "video": "linear"}.get(encoding.kind, "none")
        self.kind = config.front if config.front != "auto" else usual
        if self.kind == "cnn":
            raise ConfigError(f"front: expected none, linear or conv for steps of {len(encoding.mean)} numbers, got cnn.")
        width, size = len(encoding.mean), config.front_size
        self.size = width if self.kind == "none" else size
        if self.kind == "linear":
            self.map = Linear(width, size)
        elif self.kind == "conv":
            self.map = nn.Conv1d(width, size, kernel_size=5, padding=2)

    def forward(self, inputs: Inputs) -> Tensor:
        x = (inputs["numbers"] - self.mean) / self.deviation  # (B, T, F)
        if self.kind == "none":
            return x
        if self.kind == "linear":
            return torch.relu(self.map(x))
        steps = torch.arange(x.shape[1], device=x.device)
        x = x * (steps < inputs["lengths"].unsqueeze(1)).unsqueeze(-1)  # behind a sequence's end as before its beginning: zeros
        return torch.relu(self.map(x.transpose(1, 2)).transpose(1, 2))


class Images(nn.Module):
    """A small CNN over each picture, (height, width, channels), that learns with the rest (LRCN, Donahue et al. 2015): three
    convolutions, each halving both sides, then the mean of each of 4 x 4 parts, so that it is known where something is.

    Pictures behind a sequence's end are not looked at.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: Config, encoding: Encoding) -> None:
        super().__init__()
        if config.front not in ("auto", "cnn"):
            raise ConfigError(f"front: expected cnn for pictures, got {config.front}.")
        self.register_buffer("mean", torch.tensor(encoding.mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(encoding.deviation), persistent=False)
        self.size = config.front_size
        self.body = nn.Sequential()
        for channels, wider in pairwise((len(encoding.mean), 16, 32, 64)):
            self.body.extend([nn.Conv2d(channels, wider, 3, 2, padding=1), nn.GroupNorm(8, wider), nn.ReLU()])
        self.body.extend([nn.AdaptiveAvgPool2d(4), nn.Flatten(), Linear(64 * 16, self.size), nn.ReLU()])

    def forward(self, inputs: Inputs) -> Tensor:
        pictures = inputs["numbers"]  # (B, T, height, width, channels)
        inside = torch.arange(pictures.shape[1], device=pictures.device) < inputs["lengths"].unsqueeze(1)
        x = (pictures[inside].float() - self.mean) / self.deviation  # (N, height, width, channels)
        seen = self.body(x.permute(0, 3, 1, 2))
        return seen.new_zeros(*inside.shape, self.size).masked_scatter(inside.unsqueeze(-1), seen)
