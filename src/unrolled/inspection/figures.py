"""Figures and the numbers they show, written side by side: PNG, SVG and JSON."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from unrolled import files
from unrolled.errors import RunError


def make_folder(folder: Path) -> None:
    """Make the folder for figures, with those above it; before what takes minutes, rather than after it.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make this folder ({files.reason(error)}). Name another place.") from None


def write(figure: Figure, numbers: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write `name`.png, .svg and .json into a folder, which is made if it is not there; return their paths in this order.

    The same figure gives the same bytes.

    Args:
        figure: what is drawn.
        numbers: what the figure shows, as JSON has it; no number may be NaN or infinite.

    Raises:
        RunError: the folder cannot be made, or a file in it not be written.
    """
    make_folder(folder)
    contents = {"png": b"", "svg": b"", "json": (json.dumps(numbers, allow_nan=False, indent=1) + "\n").encode()}
    for form, metadata in (("png", None), ("svg", {"Date": None})):
        with matplotlib.rc_context({"svg.hashsalt": name}), io.BytesIO() as picture:
            figure.savefig(picture, format=form, dpi=120, metadata=metadata)
            contents[form] = picture.getvalue()
    paths = [folder / f"{name}.{form}" for form in contents]
    with ExitStack() as together:  # all of them are new, or none
        for path, content in zip(paths, contents.values(), strict=True):
            together.enter_context(files.replaced_atomically(path)).write_bytes(content)
    return paths
