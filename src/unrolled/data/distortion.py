"""Images as they might also have been taken: turned, stretched, sheared and moved a little."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample


def distorted(images: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Each image of (N, C, height, width), uint8, by an affine map of its own.

    The map is the identity plus normal noise: in the matrix of standard deviation `strength`, in the move of as much of half
    the image's side. What comes in repeats the edge.

    >>> images = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    >>> bool((distorted(images, 0.0, np.random.default_rng(0)) == images).all())
    True
    """
    maps = np.eye(2, 3) + strength * rng.standard_normal((len(images), 2, 3))
    x = torch.from_numpy(images).float()
    grid = affine_grid(torch.from_numpy(maps).float(), list(x.shape), align_corners=False)
    moved = grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(0, 255).round().byte().numpy()
