"""PixelRNN: the probability of an image, pixel by pixel (van den Oord, Kalchbrenner and Kavukcuoglu 2016, "Pixel Recurrent
Neural Networks").

    p(x) = prod_i p(x_i,R | x_<i) p(x_i,G | x_<i, x_i,R) p(x_i,B | x_<i, x_i,R, x_i,G)              (eq. 1 and 2)

x_<i are the pixels above, and to the left in the same row. Each factor is a sigmoid's (black and white) or a softmax's over all
levels. The likelihood is exact, and training computes all factors at once; drawing takes a pixel at a time.

    image -> 7 x 7 convolution, mask A -> L residual blocks -> ReLU, 1 x 1, ReLU, 1 x 1 -> scores           (table 1)
    a block: x + W LSTM(x), where the LSTM has H units and x 2H features                                    (figure 5, left)

The 1 x 1 convolutions have mask B.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import dropout, linear, logsigmoid
from torch.nn.utils import parametrize

from unrolled.kernels.linear import Linear
from unrolled.tasks.drawing.image_lstm import DiagonalBiLSTM, RowLSTM
from unrolled.tasks.drawing.masks import centre_mask, keep_zero, masked_convolution

LAYERS = {"row_lstm": RowLSTM, "diagonal_bilstm": DiagonalBiLSTM}
FIRST, MARGIN = 7, 3
"""Width and height of the first convolution, and how far it reads beyond the pixel."""


class PixelRNN(nn.Module):
    """The network, its likelihood, and drawing from it.

    Args:
        kind: of the layers.
        channels: C of the image, in the order in which they are drawn.
        height: of the images that it draws; it reads any.
        width: likewise.
        levels: values of a pixel are whole numbers from 0 to levels - 1, in any dtype: 2 for black and white, 256 for bytes.
        hidden_size: H of each layer; a multiple of C.
        num_layers: L.
        dropout: probability of dropping a unit of each layer's output, in training.

    Raises:
        ValueError: a hidden_size that the channels cannot share.

    >>> import torch
    >>> model = PixelRNN("diagonal_bilstm", channels=1, height=3, width=4, levels=2, hidden_size=5)
    >>> images = model.sample(2, torch.Generator().manual_seed(1))
    >>> images.shape, model.log_likelihood(images).shape
    (torch.Size([2, 1, 3, 4]), torch.Size([2]))
    """

    def __init__(
        self,
        kind: Literal["row_lstm", "diagonal_bilstm"],
        channels: int,
        height: int,
        width: int,
        levels: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden_size % channels:
            raise ValueError(
                f"PixelRNN expected a hidden_size that its channels can share, got hidden_size={hidden_size} for {channels} "
                f"channels. Take a multiple of {channels}."
            )
        self.shape, self.levels, self.dropout = (channels, height, width), levels, dropout
        features, scores = 2 * hidden_size, channels * (1 if levels == 2 else levels)
        self.first = masked_convolution("A", channels, features, FIRST, channels)
        self.layers = nn.ModuleList(LAYERS[kind](features, hidden_size, channels) for _ in range(num_layers))
        self.widen = nn.ModuleList(_pointwise(hidden_size, features, channels) for _ in range(num_layers))
        self.head = _pointwise(features, features, channels)
        self.output = _pointwise(features, scores, channels)

    @property
    def numbers_per_image(self) -> int:
        """In the largest tensor that `forward` makes of an image: its features or its scores."""
        _, height, width = self.shape
        return height * width * max(self.output.in_features, self.output.out_features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, height, width) -> scores (B, C, height, width, levels) before softmax; of two levels one, before a sigmoid."""
        x = self.first(self._scaled(images)).permute(2, 3, 0, 1).contiguous()  # (height, width, B, 2H)
        for layer, widen in zip(self.layers, self.widen, strict=True):
            x = x + widen(dropout(layer(x), self.dropout, self.training))
        scores = self._scores(x)  # (height, width, B, C, levels)
        # Not in bf16: a likelihood is a sum over all pixels.
        return scores.permute(2, 3, 0, 1, 4).to(torch.promote_types(scores.dtype, torch.float32))

    def log_likelihood(self, images: Tensor) -> Tensor:
        """ln p of each image in nats, exact: (B, C, height, width) -> (B,)."""
        scores = self(images)
        if self.levels == 2:
            found = logsigmoid(torch.where(images.unsqueeze(-1) > 0, scores, -scores))
        else:
            found = scores.log_softmax(-1).gather(-1, images.long().unsqueeze(-1))
        return found.flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self, count: int, generator: Generator | None = None, given: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Images drawn from p, (count, C, height, width): each pixel given all before it.

        What was computed for earlier pixels is kept, so that a pixel costs one step of each layer.

        Args:
            count: B.
            generator: draws one number for each value, image after image, whether it is known or not: the first images do not
                depend on how many there are.
            given: (B or 1, C, height, width), of which the known values are kept. Each of the others is drawn given all before
                it; known values that come later do not influence it.
            known: booleans that can be broadcast to it.

        Raises:
            ValueError: one of given and known without the other.
        """
        if (given is None) != (known is None):
            raise ValueError(
                "PixelRNN.sample expected given and known together, got one of them. known says which of given count."
            )
        channels, height, width = self.shape
        # With the rows and columns beside the image that the first convolution reads: zeros.
        canvas = torch.zeros(count, channels, MARGIN + height, width + 2 * MARGIN, device=self.output.bias.device)
        images = canvas[:, :, MARGIN:, MARGIN:-MARGIN]
        if given is not None and known is not None:
            known = known.expand_as(images)
            images.copy_(torch.where(known, given, 0))
        drawn_by = None if generator is None else generator.device
        uniform = torch.rand(images.shape, generator=generator, device=drawn_by).to(images.device)
        with parametrize.cached():  # the masks are applied once
            for (channel, row, column), scores in self.conditionals(canvas):
                at = (slice(None), channel, row, column)
                value = value_at(scores, uniform[at]).to(images.dtype)
                images[at] = value if known is None else torch.where(known[at], images[at], value)
        return images.contiguous()

    def conditionals(self, canvas: Tensor) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
        """(channel, row, column) and its scores (B, levels), for each in their order, of what is then in the canvas.

        The canvas is (B, C, 3 + height, 3 + width + 3), zero around the image.
        """
        count, (channels, height, width) = len(canvas), self.shape
        every: Any = zip(self.layers, self.widen, strict=True)
        layers = [(layer.pixels(width, count), widen) for layer, widen in every]
        first = self.first.weight[:, :, : MARGIN + 1].flatten(1)
        for row in range(height):
            for layer, _ in layers:
                layer.next_row()
            for column in range(width):
                for channel in range(channels):
                    window = canvas[:, :, row : row + MARGIN + 1, column : column + FIRST]
                    x = linear(self._scaled(window).flatten(1), first, self.first.bias)
                    for layer, widen in layers:
                        x = x + widen(layer.pixel(column, x))
                    yield (channel, row, column), self._scores(x)[:, channel]

    def _scaled(self, images: Tensor) -> Tensor:
        """Levels as what the network reads: from 0 to 1."""
        return images.to(self.output.bias.dtype) / (self.levels - 1)

    def _scores(self, features: Tensor) -> Tensor:
        """(..., 2H) -> (..., C, levels), or 1 of two levels."""
        return self.output(self.head(features.relu()).relu()).unflatten(-1, (self.shape[0], -1))


def value_at(scores: Tensor, uniform: Tensor) -> Tensor:
    """The value that `uniform` in [0, 1) draws from the softmax, or of one score the sigmoid: (B, levels) and (B,) -> (B,)."""
    uniform = uniform.to(scores)
    if scores.shape[-1] == 1:
        return (uniform < scores.squeeze(-1).sigmoid()).to(scores)
    below = scores.softmax(-1).cumsum(-1)
    return (below <= uniform.unsqueeze(-1)).sum(-1).clamp(max=scores.shape[-1] - 1)


def _pointwise(inputs: int, outputs: int, channels: int) -> Linear:
    """A 1 x 1 convolution under mask B, over the last dimension."""
    convolution = Linear(inputs, outputs)
    if channels == 1:  # which mask B lets see itself
        return convolution
    return keep_zero(convolution, "weight", centre_mask("B", outputs, inputs, channels))
