"""A painting: strokes on a ground, as pixels of any size, as JSON, and as SVG."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from unrolled import files
from unrolled.errors import ConfigError, DataError
from unrolled.strokes.rendering import Strokes, render

LARGEST = 100_000_000
"""Pixels of a rendered painting."""
MOST = 1_000_000
"""Strokes of a painting."""
_SVG_UNITS = 1000
"""Of the longer side."""
_CORNERS = 16
"""Of each side of a stroke's outline in SVG."""


class Painting(NamedTuple):
    """Strokes on a ground of one colour.

    >>> points = torch.tensor([[[0.1, 0.5], [0.5, 0.1], [0.9, 0.5]]])
    >>> strokes = Strokes(
    ...     points,
    ...     radii=torch.tensor([[0.10, 0.02]]),
    ...     colours=torch.tensor([[1.0, 0.0, 0.0]]),
    ...     opacity=torch.tensor([0.9]),
    ...     bristles=torch.tensor([0.5]),
    ...     seeds=torch.tensor([0]),
    ... )
    >>> Painting(strokes, ground=torch.ones(3), height_to_width=0.5).render(longer=64).shape
    torch.Size([3, 32, 64])
    """

    strokes: Strokes
    ground: Tensor
    """Its colour, (3,) in 0 to 1."""
    height_to_width: float

    def size(self, longer: int) -> tuple[int, int]:
        """Height and width in pixels where the longer side has so many.

        Raises:
            ConfigError: fewer than one pixel, or more than `LARGEST`.
        """
        return size_of(self.height_to_width, longer)

    def render(self, longer: int) -> Tensor:
        """Its pixels, (3, height, width) in 0 to 1.

        Raises:
            ConfigError: as `size`.
        """
        height, width = self.size(longer)
        return render(self.strokes, height, width, self._bare(height, width))

    def image(self, longer: int) -> Image.Image:
        """The same as an image of Pillow.

        Raises:
            ConfigError: as `size`.
        """
        return as_image(self.render(longer))

    def growing(self, longer: int, frames: int) -> Iterator[Tensor]:
        """The painting as it grows, from the bare ground on: (3, height, width) each.

        There are `frames`, or one more than it has strokes if that is less. The first strokes, which cover much, come one by
        one; later ones more and more at a time.

        Raises:
            ConfigError: as `size`.
        """
        height, width = self.size(longer)
        canvas = self._bare(height, width)
        yield canvas
        count = len(self.strokes.opacity)
        pictures = min(frames - 1, count)
        done = 0
        for number in range(1, pictures + 1):
            stop = max(done + 1, min(count - pictures + number, round(count * (number / pictures) ** 2)))
            canvas = render(self.strokes[done:stop], height, width, canvas)
            done = stop
            yield canvas

    def _bare(self, height: int, width: int) -> Tensor:
        return self.ground[:, None, None].expand(3, height, width).contiguous()

    def save(self, path: Path) -> None:
        """Write it as JSON, whose form `Painting.load` tells, or as SVG, by the ending of the name.

        In SVG a stroke is a filled outline, without bristles.

        Raises:
            ConfigError: another ending.
            RunError: it cannot be written.
        """
        if path.suffix.lower() not in (".json", ".svg"):
            raise ConfigError(f"{path}: expected a name that ends in .json or .svg, got {path.suffix or 'none of these'}.")
        text = self._json() if path.suffix.lower() == ".json" else self._svg()
        files.write_atomically(path, text.encode())

    @classmethod
    def load(cls, path: Path) -> Painting:
        """A painting from the JSON that `save` wrote.

        It holds format_version, height_to_width, ground (red, green, blue), and strokes, each with points (three of x and y),
        radii (two), colour, opacity, bristles and seed.

        Raises:
            DataError: it cannot be read, or is not of this form.
        """
        try:
            saved = _Saved.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({files.reason(error)}).") from None
        except ValidationError as error:
            raise DataError(f"{path}: expected a painting as unrolled writes it, got {files.first_problem(error)}.") from None
        strokes = saved.strokes
        return cls(
            Strokes(
                torch.tensor([one.points for one in strokes]).reshape(-1, 3, 2),
                torch.tensor([one.radii for one in strokes]).reshape(-1, 2),
                torch.tensor([one.colour for one in strokes]).reshape(-1, 3),
                *(torch.tensor([getattr(one, name) for one in strokes]) for name in ("opacity", "bristles", "seed")),
            ),
            torch.tensor(saved.ground),
            saved.height_to_width,
        )

    def _json(self) -> str:
        def numbers(values: Tensor) -> list[float]:
            return [round(value, 5) for value in values.flatten().tolist()]

        strokes = [
            {
                "points": [numbers(point) for point in points],
                "radii": numbers(radii),
                "colour": numbers(colour),
                "opacity": round(float(opacity), 5),
                "bristles": round(float(bristles), 5),
                "seed": int(seed),
            }
            for points, radii, colour, opacity, bristles, seed in zip(*self.strokes, strict=True)
        ]
        head = {"format_version": 1, "height_to_width": self.height_to_width, "ground": numbers(self.ground)}
        lines = ",\n".join(json.dumps(stroke) for stroke in strokes)
        return json.dumps(head)[:-1] + f', "strokes": [\n{lines}\n]}}\n'

    def _svg(self) -> str:
        height, width = self.size(_SVG_UNITS)
        drawn = zip(_outlines(self.strokes), self.strokes.colours, self.strokes.opacity, strict=True)
        paths = (
            f'<path d="{outline}" fill="{_hex(colour)}" fill-opacity="{float(opacity):.3f}"/>'
            for outline, colour, opacity in drawn
        )
        box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ground = f'<rect width="100%" height="100%" fill="{_hex(self.ground)}"/>'
        return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', ground, *paths, "</svg>\n"])


def as_image(pixels: Tensor) -> Image.Image:
    """Pixels (3, height, width) in 0 to 1 as an image of Pillow."""
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def size_of(height_to_width: float, longer: int) -> tuple[int, int]:
    """Height and width in pixels of a painting of which the longer side has so many.

    Raises:
        ConfigError: fewer than one pixel, or more than `LARGEST`.
    """
    height, width = (longer, longer / height_to_width) if height_to_width > 1 else (longer * height_to_width, longer)
    height, width = max(1, round(height)), max(1, round(width))
    if longer < 1 or height * width > LARGEST:
        raise ConfigError(f"expected a picture of 1 to {LARGEST:,} pixels, got {width:,} x {height:,}. Give another size.")
    return height, width


def _outlines(strokes: Strokes) -> Iterator[str]:
    """SVG paths: one side of the curve, a half circle around its end, the other side, a half circle around its start."""
    t = torch.linspace(0, 1, _CORNERS)[:, None]
    p0, p1, p2 = (strokes.points * _SVG_UNITS)[:, :, None].unbind(1)  # (N, 1, 2)
    curve = (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2
    tangent = 2 * (1 - t) * (p1 - p0) + 2 * t * (p2 - p1) + 1e-6 * torch.tensor([1.0, 0.0])
    normal = torch.stack([-tangent[..., 1], tangent[..., 0]], -1) / tangent.norm(dim=-1, keepdim=True)
    radii = strokes.radii * _SVG_UNITS
    reach = normal * (radii[:, :1] + t[:, 0] * (radii[:, 1:] - radii[:, :1]))[..., None]
    sides = zip((curve + reach).tolist(), (curve - reach).flip(1).tolist(), radii.tolist(), strict=True)
    for left, right, (start, end) in sides:
        there, back = (" ".join(f"{x:.1f},{y:.1f}" for x, y in side) for side in (left, right))
        (rx, ry), (lx, ly) = right[0], left[0]
        yield f"M{there} A{end:.1f},{end:.1f} 0 0 0 {rx:.1f},{ry:.1f} L{back} A{start:.1f},{start:.1f} 0 0 0 {lx:.1f},{ly:.1f}Z"


def _hex(colour: Tensor) -> str:
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, value))):02x}" for value in colour.tolist())


_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Colour = tuple[_Share, _Share, _Share]


class _SavedStroke(BaseModel):
    """One of the strokes in the file."""

    model_config = ConfigDict(extra="forbid")

    points: tuple[tuple[_Number, _Number], tuple[_Number, _Number], tuple[_Number, _Number]]
    radii: tuple[Annotated[_Number, Field(ge=0)], Annotated[_Number, Field(ge=0)]]
    colour: _Colour
    opacity: _Share
    bristles: _Share
    seed: int = Field(ge=0, lt=2**24)


class _Saved(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1]
    height_to_width: float = Field(gt=0, le=1e4)
    ground: _Colour
    strokes: list[_SavedStroke] = Field(max_length=MOST)
