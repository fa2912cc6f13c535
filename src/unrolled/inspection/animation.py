"""Pictures one after another as a file that plays: GIF, or MP4 through PyAV."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from unrolled import files
from unrolled.errors import DataError

NOT_INSTALLED = "writing MP4 needs the package av: pip install 'unrolled[drawing]'; GIF does without."
_LAST = 1.5
"""Seconds that the last picture stays."""


def write(path: str | os.PathLike[str], pictures: Sequence[Image.Image], seconds: float = 0.1) -> Path:
    """Write a .gif, which begins anew when it ends, or an .mp4 (H.264, without sound); return its path.

    Args:
        path: where to; missing folders above it are made. At the path is the old file or the whole new one, never a part.
        pictures: RGB, of one size.
        seconds: that each is shown, the last one longer.

    Raises:
        DataError: no pictures, another ending, or for .mp4 PyAV is not installed.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pictures = [Image.new("RGB", (32, 32), colour) for colour in ("black", "white")]
    ...     write(folder + "/blink.gif", pictures).name
    'blink.gif'
    """
    path = Path(path)
    if not pictures:
        raise DataError(f"{path}: expected pictures to write, got none.")
    ending = path.suffix.lower()
    if ending not in (".gif", ".mp4"):
        raise DataError(f"{path}: expected a name that ends with .gif or .mp4, got {ending or 'no ending'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".mp4":
        _mp4(path, pictures, seconds)
        return path
    first, *others = pictures
    times = [round(1000 * seconds)] * len(others) + [round(1000 * (seconds + _LAST))]
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=others, duration=times, loop=0, disposal=1)
    files.write_atomically(path, content.getvalue())
    return path


def require(path: Path) -> None:
    """Refuse a film that this installation cannot write, before the work that it shows.

    Raises:
        DataError: for .mp4 PyAV is not installed.
    """
    if path.suffix.lower() == ".mp4" and find_spec("av") is None:
        raise DataError(f"{path}: {NOT_INSTALLED}")


def _mp4(path: Path, pictures: Sequence[Image.Image], seconds: float) -> None:
    require(path)
    import av

    width, height = (side + side % 2 for side in pictures[0].size)  # H.264 asks for even sides where colours have half as many
    tick = Fraction(1, 1000)
    with files.replaced_atomically(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = tick
        for number, picture in enumerate([*pictures, pictures[-1]]):
            even = Image.new("RGB", (width, height), "white")
            even.paste(picture)
            frame = av.VideoFrame.from_image(even)
            extra = _LAST if number == len(pictures) else 0  # a last frame says how long the one before it stays
            frame.pts, frame.time_base = round(1000 * (number * seconds + extra)), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
