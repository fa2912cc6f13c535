"""The small networks that the figures are measured on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unrolled.layers import LAYERS, Recurrent


def fresh(cell: str, *sizes: int, seed: int, **options: Any) -> Recurrent:
    """A layer with weights that the seed says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LAYERS[cell](*sizes, **options)


def of_radius(input_size: int, hidden_size: int, radius: float, *, seed: int) -> Recurrent:
    """A vanilla RNN whose W_hh has this spectral radius, the largest absolute value of its eigenvalues."""
    layer = fresh("rnn", input_size, hidden_size, seed=seed)
    with torch.no_grad():
        weights = torch.randn(hidden_size, hidden_size, generator=random(seed))
        layer.all_weights[0][1].copy_(weights * radius / torch.linalg.eigvals(weights).abs().max())
    return layer


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms_from_the_end(layer: Recurrent, x: Tensor) -> Tensor:
    """||dL/dh_t|| and ||dL/dc_t|| of every layer and step, (L, 2, T), for a loss that reads the last output alone.

    The loss is a projection of h_T on a direction of length 1, so that the last norm is 1. The kernels give the norms with
    the backward pass.
    """
    norms = torch.zeros(layer.num_layers, 2, len(x), 1)
    output, _ = layer(x, gradient_norms=norms)
    direction = torch.randn(output.shape[-1], generator=random(1))
    (output[-1, 0] @ (direction / direction.norm())).backward()
    return norms[..., 0]
