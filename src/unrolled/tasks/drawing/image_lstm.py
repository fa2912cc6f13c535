"""Two LSTMs over the pixels of an image (van den Oord, Kalchbrenner and Kavukcuoglu 2016, sections 3.1 and 3.2).

Both are the LSTM of `unrolled.cells` whose gates also see the states of neighbouring pixels (eq. 3; K_ss and K_is are
convolutions of states and of inputs):

    (o, f, i, g) = K_ss * h_before + K_is * x;    c = f c_before + i g;    h = o tanh(c)

They run on `unrolled.LSTM`: h of one neighbour is the layer's state, and h of the others stands beside x in its input, as
W_ih (h', x) + W_hh h is that convolution. What "before" is decides how much a call of the layer can do:

    Row LSTM      before is the row above, h of three pixels, c of the one in the middle: a row is one step of W * B sequences
    Diagonal      before are the pixels beside and above, c of the one beside: a row is a sequence of W steps, whose inputs
    BiLSTM        contain h of the row above

The paper skews the image so that a diagonal is one step. A row as a sequence computes the same numbers, without the half of
the skewed image that is padding, and all steps of a row in one call.

A map of features is (height, width, B, F), so that a row and a pixel are contiguous. Beside the whole map, each layer computes
one pixel after another, for drawing (`pixels`): a pixel costs one step, however large the image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unrolled.layers import LSTM
from unrolled.tasks.drawing.masks import centre_mask, keep_zero


def _lstm(before: int, features: int, hidden: int, channels: int) -> LSTM:
    """An LSTM of `before` inputs that are all seen, and behind them the features of the pixel itself under mask B."""
    lstm = LSTM(before + features, hidden, forget_bias=1.0)
    if channels == 1:  # which mask B lets see itself
        return lstm
    centre = centre_mask("B", hidden, features, channels).repeat(4, 1)  # of each gate's units
    return keep_zero(lstm, "weight_ih_l0", torch.cat([torch.ones(4 * hidden, before), centre], 1))


class RowLSTM(nn.Module):
    """From the top to the bottom, all pixels of a row at once (section 3.1). K_ss is 3 wide; so is K_is, of which mask B leaves
    two.

    Args:
        features: F, of the map that it reads.
        hidden_size: H.
        channels: of the image; F and H are multiples of it.
    """

    def __init__(self, features: int, hidden_size: int, channels: int) -> None:
        super().__init__()
        self.features, self.hidden_size = features, hidden_size
        self.lstm = _lstm(2 * hidden_size + features, features, hidden_size, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(height, width, B, F) -> (height, width, B, H)."""
        _, width, batch, _ = x.shape
        x = torch.cat([pad(x[:, :-1], (0, 0, 0, 0, 1, 0)), x], -1).flatten(1, 2)  # (height, W * B, 2F): left, centre
        h = x.new_zeros(1, width * batch, self.hidden_size)
        state, rows = (h, h), []
        for row in x:
            around = pad(state[0][0], (0, 0, batch, batch))  # ((W + 2) * B, H)
            seen = torch.cat([around[: -2 * batch], around[2 * batch :], row], -1)
            out, state = self.lstm(seen.unsqueeze(0), state)
            rows.append(out[0])
        return torch.stack(rows).unflatten(1, (width, batch))

    def pixels(self, width: int, batch: int) -> RowPixels:
        """What computes an image of this width pixel by pixel."""
        return RowPixels(self, width, batch)


class RowPixels:
    """A `RowLSTM` pixel by pixel."""

    def __init__(self, layer: RowLSTM, width: int, batch: int) -> None:
        self.layer = layer
        zeros = next(layer.parameters()).new_zeros
        self.nothing_seen, h = zeros(batch, layer.features), zeros(batch, layer.hidden_size)
        self.nothing = h, (h.unsqueeze(0), h.unsqueeze(0))  # as LSTM.step returns it
        self.here, self.seen = [self.nothing] * (width + 1), [self.nothing_seen] * (width + 1)  # [-1] is beside the image

    def next_row(self) -> None:
        """Before each row's first pixel."""
        self.above, self.here = self.here, self.here.copy()

    def pixel(self, column: int, x: Tensor) -> Tensor:
        """x (B, F) of the pixel -> (B, H). Asked again for the same pixel, the last x counts."""
        self.seen[column] = x
        seen = torch.cat([self.above[column - 1][0], self.above[column + 1][0], self.seen[column - 1], x], -1)
        self.here[column] = self.layer.lstm.step(seen, self.above[column][1])
        return self.here[column][0]


class DiagonalBiLSTM(nn.Module):
    """From both upper corners along the diagonals, so that together they see all that comes before a pixel (section 3.2).

    left[i, j] sees left[i, j - 1] and left[i - 1, j], right[i, j] sees right[i, j + 1] and right[i - 1, j]. The result is
    left[i, j] + right[i - 1, j], as right[i, j] has seen pixels behind (i, j). K_is is 1 x 1 under mask B.

    Args:
        features: F, of the map that it reads.
        hidden_size: H.
        channels: of the image; F and H are multiples of it.
    """

    def __init__(self, features: int, hidden_size: int, channels: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.left = _lstm(hidden_size, features, hidden_size, channels)
        self.right = _lstm(hidden_size, features, hidden_size, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(height, width, B, F) -> (height, width, B, H)."""
        left = _rows(self.left, x)[1:]
        right = _rows(self.right, x[:-1].flip(1))
        return torch.stack(left) + torch.stack(right).flip(1)

    def pixels(self, width: int, batch: int) -> DiagonalPixels:
        """What computes an image of this width pixel by pixel."""
        return DiagonalPixels(self, width, batch)


class DiagonalPixels:
    """A `DiagonalBiLSTM` pixel by pixel; of the rows that are done, the right LSTM computes each at once."""

    def __init__(self, layer: DiagonalBiLSTM, width: int, batch: int) -> None:
        self.layer, self.width = layer, width
        zeros = next(layer.parameters()).new_zeros(width, batch, layer.hidden_size)
        self.left, self.right_above = [*zeros], zeros  # the latter from the right to the left
        self.seen: list[Tensor] = []

    def next_row(self) -> None:
        """Before each row's first pixel."""
        if self.seen:
            row = torch.stack(self.seen[::-1])
            self.right_above, _ = self.layer.right(torch.cat([self.right_above, row], -1))
        self.above, self.left, self.seen = self.left, self.left.copy(), [*self.right_above]
        self.states: list[Any] = [None] * (self.width + 1)  # before each pixel

    def pixel(self, column: int, x: Tensor) -> Tensor:
        """x (B, F) of the pixel -> (B, H). Asked again for the same pixel, the last x counts."""
        self.seen[column] = x
        seen = torch.cat([self.above[column], x], -1)
        self.left[column], self.states[column + 1] = self.layer.left.step(seen, self.states[column])
        return self.left[column] + self.right_above[-1 - column]


def _rows(lstm: LSTM, x: Tensor) -> list[Tensor]:
    """A row of zeros, and h (width, B, H) of each row, every one a sequence that has h of the row above in its inputs."""
    rows = [x.new_zeros(*x.shape[1:3], lstm.hidden_size)]
    for row in x:
        rows.append(lstm(torch.cat([rows[-1], row], -1))[0])
    return rows
