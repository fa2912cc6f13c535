"""Windows of an image: a grid of Gaussian filters, placed, spaced and blurred by five numbers, to read through and to write
through; differentiable in all of them (Gregor et al. 2015, DRAW, section 3.2).

Pixels are counted from 1, as in the paper: a runs over 1..A, the width, and b over 1..B, the height.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """One window for each image of a batch of N, with n x n filters."""

    rows: Tensor
    """F_Y, (N, n, height): each filter sums to 1 over the pixels."""
    columns: Tensor
    """F_X, (N, n, width)."""
    intensity: Tensor
    """gamma, (N, 1, 1, 1)."""
    centre: Tensor
    """(g_Y, g_X), (N, 2), in pixels counted from 1."""
    stride: Tensor
    """delta, (N,), pixels from one filter to the next."""
    variance: Tensor
    """sigma squared, (N,), in pixels."""

    def corners(self) -> Tensor:
        """(N, 4): top, left, bottom, right of the square of the filters' centres, a stride's half around each, in pixels from
        the image's upper left corner."""
        half = self.stride * self.rows.shape[1] / 2
        centre = self.centre - 0.5
        return torch.stack([*(centre.T - half), *(centre.T + half)], dim=1)


def windows(parameters: Tensor, filters: int, height: int, width: int) -> Windows:
    """Five numbers for each image, of any size, as a linear layer gives them -> the windows (eq. 19-26).

        (g~_X, g~_Y, log sigma^2, log delta~, log gamma) = parameters
        g_X = (A + 1) / 2 (g~_X + 1),   g_Y = (B + 1) / 2 (g~_Y + 1)
        delta = (max(A, B) - 1) / (n - 1) delta~
        mu_X^i = g_X + (i - n / 2 - 0.5) delta
        F_X[i, a] = exp(-(a - mu_X^i)^2 / (2 sigma^2)) / Z,  which sums to 1 over a

    With zeros everywhere a window covers the image. Z is taken by softmax, so that a window that has left the image has
    filters, too: those of the nearest pixels.

    Args:
        parameters: (N, 5).
        filters: n, on each side of the grid.
        height: B, of the image.
        width: A, of the image.

    >>> found = windows(torch.zeros(1, 5), filters=3, height=7, width=5)
    >>> found.rows.shape, found.centre.tolist(), found.stride.tolist()
    (torch.Size([1, 3, 7]), [[4.0, 3.0]], [3.0])
    """
    centre_x, centre_y = (width + 1) / 2 * (parameters[:, 0] + 1), (height + 1) / 2 * (parameters[:, 1] + 1)
    variance, stride, intensity = parameters[:, 2:].exp().unbind(1)
    stride = (max(height, width) - 1) / max(1, filters - 1) * stride
    offsets = torch.arange(filters, dtype=parameters.dtype, device=parameters.device) - (filters - 1) / 2
    apart = offsets * stride.unsqueeze(1)  # (N, n)
    sharpness = (-0.5 / variance).view(-1, 1, 1)
    rows, columns = (
        _filters(centre.unsqueeze(1) + apart, sharpness, pixels) for centre, pixels in ((centre_y, height), (centre_x, width))
    )
    centre = torch.stack([centre_y, centre_x], dim=1)
    return Windows(rows, columns, intensity.view(-1, 1, 1, 1), centre, stride, variance)


def read(images: Tensor, window: Windows) -> Tensor:
    """What a window shows, gamma F_Y x F_X^T (eq. 27): images (N, C, height, width) -> (N, C, n, n)."""
    N, C, H, W = images.shape
    n = window.rows.shape[1]
    down = torch.bmm(window.rows, images.transpose(1, 2).reshape(N, H, C * W)).view(N, n * C, W)  # long rows: quicker products
    patch = torch.bmm(down, window.columns.transpose(1, 2)).view(N, n, C, n).transpose(1, 2)  # (N, C, n, n)
    return window.intensity * patch


def write(patches: Tensor, window: Windows) -> Tensor:
    """A patch put where the window is, 1 / gamma F_Y^T w F_X (eq. 29): patches (N, C, n, n) -> (N, C, height, width)."""
    N, C, n, _ = patches.shape
    H, W = window.rows.shape[2], window.columns.shape[2]
    across = torch.bmm((patches / window.intensity).transpose(1, 2).reshape(N, n * C, n), window.columns).view(N, n, C * W)
    return torch.bmm(window.rows.transpose(1, 2), across).view(N, H, C, W).transpose(1, 2)


def _filters(means: Tensor, sharpness: Tensor, pixels: int) -> Tensor:
    """means (N, n), sharpness -1 / (2 sigma^2), (N, 1, 1) -> (N, n, pixels), each filter summing to 1."""
    places = torch.arange(1, pixels + 1, dtype=means.dtype, device=means.device)
    return torch.softmax(sharpness * (places - means.unsqueeze(-1)).square(), dim=-1)
