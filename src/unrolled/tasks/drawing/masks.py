"""Masks A and B: which weights of a convolution are zero, so that a value of an image is computed from those before it
(van den Oord, Kalchbrenner and Kavukcuoglu 2016, section 3.4).

Pixels come row by row, and within a pixel its channels one after another (R, G, B). Of the pixel at the centre, channel k of
the result sees channels before k (mask A, which reads the image), or up to k (mask B, which reads features: those of channel k
know nothing of k). Features are divided among the channels in neighbouring blocks of one size.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Kind = Literal["A", "B"]
Module = TypeVar("Module", bound=nn.Module)


def centre_mask(kind: Kind, outputs: int, inputs: int, channels: int) -> Tensor:
    """(outputs, inputs) of a pixel: 1 where an output sees an input.

    >>> centre_mask("A", 3, 3, channels=3)
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [1., 1., 0.]])
    """
    of_output = torch.arange(outputs) * channels // outputs
    of_input = torch.arange(inputs) * channels // inputs
    seen = of_input < of_output.unsqueeze(1) if kind == "A" else of_input <= of_output.unsqueeze(1)
    return seen.float()


def masked_convolution(kind: Kind, inputs: int, outputs: int, size: int, channels: int) -> nn.Conv2d:
    """size x size, size odd, over (B, inputs, height, width): it sees rows above, what is left, and the centre as masked.

    >>> masked_convolution("A", 1, 1, size=3, channels=1).weight.sign().abs()
    tensor([[[[1., 1., 1.],
              [1., 0., 0.],
              [0., 0., 0.]]]], grad_fn=<AbsBackward0>)
    """
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    mask = torch.zeros(outputs, inputs, size, size)
    middle = size // 2
    mask[:, :, :middle] = 1
    mask[:, :, middle, :middle] = 1
    mask[:, :, middle, middle] = centre_mask(kind, outputs, inputs, channels)
    return keep_zero(convolution, "weight", mask)


def keep_zero(module: Module, name: str, mask: Tensor) -> Module:
    """The module, whose weight of that name is from now on its parameter times the mask."""
    parametrize.register_parametrization(module, name, _Masked(mask))
    return module


class _Masked(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask
