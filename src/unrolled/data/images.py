"""Images of every kind that Pillow opens, as RGB; and finding them in folders."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from unrolled.data import sources
from unrolled.errors import DataError

MAX_PIXELS = 178_956_970
"""An image of more is refused before it is unpacked, since a file of a few kB can ask for GB. Pillow's own bound."""

_NOT_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows them by their first bytes, and can do no more


def read_image(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Image.Image:
    """An image from a path, or from the bytes of a file, upright and in RGB.

    Turned as its EXIF orientation says; transparent parts on white; grey, CMYK, palettes and every other mode become RGB; of
    an animation the first frame. 16-bit grey is scaled so that 65535 is white. Other integers and floats, which have no white
    of their own, are scaled by the range of their values.

    Args:
        source: a path, of a pipe too, `-` for standard input; or the content of a file, such as a member of an archive.
        name: what errors call it; a path has one.

    Raises:
        DataError: a file that is missing, empty, no image, damaged, cut short, or of more than `MAX_PIXELS`; names the file.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("LA", (3, 2), (0, 0)).save(file, "PNG")  # black, but wholly transparent
    >>> image = read_image(file.getvalue(), name="clear.png")
    >>> image.mode, image.size, image.getpixel((0, 0))
    ('RGB', (3, 2), (255, 255, 255))
    """
    name = name or ("image" if isinstance(source, bytes) else os.fspath(source))
    try:
        if isinstance(source, bytes):
            content = source
        else:
            piped = sources.kind_of(os.fspath(source)) == "pipe"
            content = sources.read_whole(os.fspath(source)) if piped else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: expected an image, got {(error.strerror or str(error)).lower()}.") from None
    if not content:
        raise DataError(f"{name}: expected an image, got an empty file (0 bytes).")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                image.load()
                return to_rgb(_upright(image))
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{name}: expected an image, got {len(content):,} bytes of another kind or damaged at the start."
        ) from None
    except Image.DecompressionBombError:
        size = None
    except Exception as error:  # a decoder raises whatever its parser meets: OSError, SyntaxError, struct.error, IndexError ...
        raise DataError(f"{name}: expected a whole image, got a damaged or truncated one ({error}).") from None
    got = f"{size[0]:,} x {size[1]:,}" if size else "more"
    raise DataError(f"{name}: expected an image of at most {MAX_PIXELS:,} pixels, got {got}. Make it smaller first.")


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files that files and folders name: a file is taken as it is, a folder gives all in it and below, sorted.

    In folders, what counts as an image goes by the ending of the name; hidden files and folders are passed over.

    Raises:
        DataError: a path that does not exist or is a device, or a folder without images.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (2, 2)).save(folder + "/a.png")
    ...     _ = Path(folder, "notes.txt").write_text("not an image")
    ...     [path.name for path in find_images([folder])]
    ['a.png']
    """
    kinds = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN.keys() - _NOT_PICTURES}
    found: list[Path] = []
    for named in paths:
        path, kind = Path(os.path.expanduser(named)), sources.kind_of(os.fspath(named))
        if kind == "folder":
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in kinds and file.is_file())
            shown = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
            if not shown:
                raise DataError(f"{path}: expected images in this folder, found none.")
            found += shown
        elif kind != "nothing":
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder.")
    return found


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, as `read_image` gives it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_bytes(np.asarray(image, dtype=np.float64), image.mode)).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")  # type: ignore[return-value]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_bytes(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 bits, 32 bits or floats as 8 bits. Pillow's own conversion would clip at 255: all white."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if mode.startswith("I") and low >= 0 and high <= 65535:  # Pillow reads some 16-bit files, such as PGM, as "I"
        low, high = 0, 65535
    return np.round((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF data say; as it is where these are damaged, since the picture is not."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image
