"""Pictures that a painter can learn from without any photo: clouds of colour, shapes with light and texture, and strokes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from unrolled.strokes import Strokes, render


def picture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Shapes on a ground, every second time; else clouds alone, or strokes on a ground: (size, size, 3) in 0 to 1."""
    kind = rng.random()
    return shapes(rng, size) if kind < 0.5 else clouds(rng, size) if kind < 0.75 else painted(rng, size)


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose power falls with a power of the frequency, as that of photos does, its colours akin: (size, size, 3)."""
    down, right = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.sqrt(down**2 * rng.uniform(0.4, 2.5) + right**2 * rng.uniform(0.4, 2.5))
    frequency[0, 0] = np.inf  # no mean
    spectra = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    noise = np.fft.irfft2(spectra / frequency ** rng.uniform(0.8, 2.0), (size, size))
    noise /= noise.std(axis=(1, 2), keepdims=True) + 1e-9
    mixed = noise.transpose(1, 2, 0) @ (np.eye(3) * rng.uniform(0.1, 0.6) + 0.1 * rng.normal(size=(3, 3)) + rng.uniform(0.3, 1))
    return np.clip(mixed / (mixed.std() + 1e-9) * rng.uniform(0.08, 0.28) + rng.uniform(0.2, 0.8, 3), 0, 1)


def shapes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ellipses, polygons, bars and winding lines in a few colours, some of them blurred, lit and grained: (size, size, 3)."""
    side = 2 * size
    if rng.random() < 0.5:
        image = Image.new("RGB", (side, side), _colour(rng.integers(0, 256, 3)))
    else:
        image = Image.fromarray((clouds(rng, size) * 255).astype(np.uint8)).resize((side, side))
    draw, colours = ImageDraw.Draw(image), rng.integers(0, 256, (5, 3))
    for _ in range(rng.integers(2, 40)):
        _draw_one(rng, draw, side, _colour(colours[rng.integers(5)] + rng.normal(size=3) * 25))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX)) / 255.0
    if rng.random() < 0.6:
        light = 1 + 0.5 * (clouds(rng, size).mean(-1, keepdims=True) - 0.5)
        pixels = pixels * light + rng.normal(size=pixels.shape) * rng.uniform(0, 0.04)
    return np.clip(pixels, 0, 1)


def painted(rng: np.random.Generator, size: int) -> np.ndarray:
    """Strokes that fill the picture, broad ones first, neighbours alike in colour and direction: (size, size, 3) in 0 to 1."""
    count = int(rng.integers(20, 200))
    middles, width = rng.random((count, 2)), np.geomspace(0.15, 0.02, count)[:, None] * rng.uniform(0.5, 2, (count, 1))
    colours, directions = clouds(rng, 32), clouds(rng, 32)
    column, row = (middles * 32).astype(int).T
    turn = 4 * np.pi * directions[row, column, 0]
    reach = width * rng.uniform(1, 4, (count, 1)) * np.stack([np.cos(turn), np.sin(turn)], 1)
    points = np.stack([middles - reach, middles + width * rng.normal(size=(count, 2)), middles + reach], 1)
    radii = 0.5 * width * rng.uniform(0.4, 1, (count, 2))
    near = np.clip(colours[row, column] + 0.1 * rng.normal(size=(count, 3)), 0, 1)
    floats = (torch.from_numpy(one).float() for one in (points, radii, near))
    strokes = Strokes(*floats, opacity=torch.full((count,), 0.95), bristles=torch.zeros(count), seeds=torch.arange(count))
    ground = torch.from_numpy(rng.random(3)).float()[:, None, None].expand(3, size, size)
    return render(strokes, size, size, ground).permute(1, 2, 0).numpy()


def _draw_one(rng: np.random.Generator, draw: ImageDraw.ImageDraw, side: int, colour: tuple[int, int, int]) -> None:
    x, y = rng.uniform(-0.1, 1.1, 2) * side
    reach = side * np.exp(rng.uniform(np.log(0.015), np.log(0.4)))
    kind = rng.integers(4)
    if kind == 0:
        draw.ellipse([x - reach, y - reach * rng.uniform(0.3, 1), x + reach, y + reach * 0.8], fill=colour)
    elif kind == 1:
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        far = reach * rng.uniform(0.4, 1, len(turns))
        draw.polygon(list(zip(x + far * np.cos(turns), y + far * np.sin(turns), strict=True)), fill=colour)
    elif kind == 2:
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(0.5 * rng.normal(size=rng.integers(2, 12)))
        path = np.array([x, y]) + np.cumsum(0.3 * reach * np.stack([np.cos(turns), np.sin(turns)], 1), axis=0)
        draw.line([(x, y), *map(tuple, path)], fill=colour, width=int(max(1, rng.uniform(0.004, 0.05) * side)), joint="curve")
    else:
        draw.rectangle([x, y, x + reach, y + reach * rng.uniform(0.1, 2)], fill=colour)


def _colour(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue
