"""Brush strokes: what they are, what they look like at any resolution, and files of them."""

from unrolled.strokes.painting import Painting
from unrolled.strokes.rendering import Strokes, coverage, render

__all__ = ["Painting", "Strokes", "coverage", "render"]
