"""Brush strokes: what they are, what they look like at any resolution, and files of them."""

from unrolled.strokes.painting import Painting
from unrolled.strokes.rendering import Paint, Strokes, paint_at, render

__all__ = ["Paint", "Painting", "Strokes", "paint_at", "render"]
