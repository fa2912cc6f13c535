"""Images of one size with the class of each: from folders of classes, plain folders, IDX files as MNIST has them, and npz."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unrolled.data import numpy_files, sources
from unrolled.data.images import find_images, read_image
from unrolled.errors import DataError

_IMAGES, _LABELS = ("images", "x"), ("labels", "y")
"""Arrays of an npz."""
_IDX, _IDX_OF_LABELS = re.compile(r"idx3-ubyte(\.gz)?$"), re.compile(r"idx1-ubyte(\.gz)?$")
_IDX_IMAGES, _IDX_LABELS = 0x803, 0x801
"""How an IDX file of bytes begins: two zeros, the type of a byte, the number of dimensions."""


class LabelledImages(NamedTuple):
    """What was read."""

    images: np.ndarray
    """(N, channels, height, width), uint8: 1 channel of grey or 3 of red, green, blue."""
    labels: np.ndarray
    """(N,), the number of each one's class; all 0 where there are no classes."""
    classes: list[str]
    """Their names; empty without."""


def read(
    paths: Sequence[str | os.PathLike[str]],
    *,
    colour: bool = False,
    size: int = 0,
    largest: int = 256,
    trained_on: Sequence[tuple[int, int]] = (),
    classes: Sequence[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> LabelledImages:
    """The images that files and folders name, in order; in folders sorted by name.

    - A folder whose images are all in folders of it: these are the classes. One with images directly in it has no classes.
    - An image file, of any kind that Pillow opens, has no class. Transparent parts are on white.
    - An IDX file of images (`train-images-idx3-ubyte`, packed by gzip or not); the labels are in the file beside it that has
      `labels-idx1` in its name, or in a file that is named, too, one for each file of images in the same order. In a folder
      there may be one of them.
    - An npz with `images` (or `x`), (N, height, width) or (N, height, width, channels): bytes, true and false, or floats from 0
      to 1; and `labels` (or `y`), (N,), numbers or names.

    Args:
        paths: what to read.
        colour: three channels; else grey.
        size: height and width that all are resized to; 0 takes them as they are, all of one size.
        largest: side in pixels that is still taken without `size`.
        trained_on: heights and widths of which one is taken without `size`, those of a run; by default any up to `largest`.
        classes: names by which to number them; by default those that are found, sorted, whole numbers as numbers.
        say: called with a line about images of folders that are left out, for they cannot be read.

    Raises:
        DataError: nothing there or no image; a file that cannot be read; images of different sizes, or larger than `largest`,
            or none of `trained_on`; some with a class and some without; a class that is not among `classes`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/two.npz", images=np.zeros((2, 4, 3)), labels=["b", "a"])
    ...     found = read([folder + "/two.npz"])
    >>> found.images.shape, found.labels.tolist(), found.classes
    ((2, 1, 4, 3), [1, 0], ['a', 'b'])
    """
    if not paths:
        raise DataError("expected images, got none. Name folders, images, IDX files or npz files.")
    labels, images_in = [], []
    for path in [os.fspath(one) for one in paths]:
        (labels if _IDX_OF_LABELS.search(path) else images_in).append(path)
    if labels and len(labels) != (count := sum(bool(_IDX.search(path)) for path in images_in)):
        raise DataError(
            f"{labels[0]}: expected an IDX file of images for each one of labels, got {count} and {len(labels)}. Labels beside "
            "their images are found without being named."
        )
    form, of_images = _Form(colour, size, largest, trained_on), iter(labels)
    parts = [
        _part(path, form, say or (lambda line: None), next(of_images, None) if _IDX.search(path) else None)
        for path in images_in
    ]
    for part in parts:
        _require_same_size(part.path, part.images.shape[2:], parts[0].path, parts[0].images.shape[2:])
        if (part.names is None) != (parts[0].names is None):
            without, other = sorted((part, parts[0]), key=lambda one: one.names is not None)
            raise DataError(f"{without.path}: expected images with classes, as in {other.path}, got images without.")
    images = np.concatenate([part.images for part in parts])
    if parts[0].names is None:
        return LabelledImages(images, np.zeros(len(images), np.int64), [])
    names = [name for part in parts for name in part.names or ()]
    known = list(classes or sorted(set(names), key=_in_order))
    if strange := sorted(set(names) - set(known), key=_in_order):
        raise DataError(f"{parts[0].path}: expected the classes {_listed(known)}, got {_listed(strange)}, too.")
    numbers = {name: number for number, name in enumerate(known)}
    return LabelledImages(images, np.array([numbers[name] for name in names], np.int64), known)


class _Form(NamedTuple):
    """What images are brought to."""

    colour: bool
    size: int
    largest: int
    trained_on: Sequence[tuple[int, int]]


class _Part(NamedTuple):
    """What one path names: images (N, channels, height, width), and the class of each, or None without."""

    path: str
    images: np.ndarray
    names: list[str] | None


def _part(path: str, form: _Form, say: Callable[[str], None], of_labels: str | None) -> _Part:
    name, kind = os.path.expanduser(path), sources.kind_of(path)
    if kind == "nothing":
        raise DataError(f"{path}: no such file or folder.")
    if kind == "folder":
        idx = sorted(str(one) for one in Path(name).iterdir() if _IDX.search(one.name))
        if len(idx) > 1:
            raise DataError(f"{path}: expected one IDX file of images, got {_listed(idx)}. Name one of them.")
        return _of_idx(idx[0], form) if idx else _of_folder(path, form, say)
    if name.lower().endswith(".npz"):
        return _of_npz(path, form)
    if _IDX.search(name):
        return _of_idx(path, form, of_labels)
    return _Part(path, _array(read_image(path), form, path)[None], None)


def _of_folder(path: str, form: _Form, say: Callable[[str], None]) -> _Part:
    files = find_images([path])
    inside = [file.relative_to(os.path.expanduser(path)).parts for file in files]
    if len({len(parts) > 1 for parts in inside}) > 1:
        first = next(file for file, parts in zip(files, inside, strict=True) if len(parts) == 1)
        raise DataError(
            f"{path}: expected images in folders, which are their classes, or all of them directly in it, got both: {first} is "
            "in no class."
        )
    images: list[np.ndarray] = []
    names: list[str] = []
    problems: list[str] = []
    first = ""
    for file, parts in zip(files, inside, strict=True):
        try:
            picture = read_image(file)
        except DataError as error:
            problems.append(str(error))
            continue
        image = _array(picture, form, str(file))
        first = first or str(file)
        if images:
            _require_same_size(str(file), image.shape[1:], first, images[0].shape[1:])
        images.append(image)
        names.append(parts[0])
    if not images:
        raise DataError(f"{path}: none of its {len(files):,} images can be read: {problems[0]}")
    if problems:
        say(f"left out {len(problems):,} of {len(files):,} images: {problems[0]}")
    return _Part(path, np.stack(images), names if len(inside[0]) > 1 else None)


def _of_npz(path: str, form: _Form) -> _Part:
    found = {name.lower(): array for name, array in numpy_files.read(path).items()}
    images = next((found[name] for name in _IMAGES if name in found), None)
    labels = next((found[name] for name in _LABELS if name in found), None)
    if images is None:
        raise DataError(f"{path}: expected an array images (or x), got {_listed(sorted(found)) or 'no array'}.")
    images = _with_channels(path, images, form)
    if labels is None:
        return _Part(path, images, None)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iubUS":
        raise DataError(
            f"{path}: expected {len(images):,} labels, numbers or names, got {labels.dtype} of shape {labels.shape}."
        )
    names = [one.decode() if isinstance(one, bytes) else str(one) for one in labels.tolist()]
    return _Part(path, images, names)


def _with_channels(path: str, images: np.ndarray, form: _Form) -> np.ndarray:
    """An array of images as a file has them -> (N, channels, height, width), uint8."""
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or not images.size:
        raise DataError(f"{path}: expected images (N, height, width) or (N, height, width, 1, 3 or 4 channels), got {shape}.")
    if images.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected images of bytes, 0 to 255, or of floats from 0 to 1, got {images.dtype}.")
    if images.dtype.kind == "b":
        images = images.astype(np.uint8) * 255
    elif images.dtype.kind == "f":
        if not np.isfinite(images).all() or images.min() < 0 or images.max() > 1:
            got = f"{images.min()} to {images.max()}" if np.isfinite(images).all() else "numbers that are not finite"
            raise DataError(f"{path}: expected images of floats from 0 to 1, got {got}. Scale them, or give bytes.")
        images = np.round(images * 255)
    elif images.min() < 0 or images.max() > 255:
        got = f"{images.dtype}, {images.min():,} to {images.max():,}"
        raise DataError(f"{path}: expected images of bytes, 0 to 255, or of floats from 0 to 1, got {got}. Scale them.")
    images = images.astype(np.uint8)
    if images.shape[3] == 1 and not form.colour and not form.size:  # nothing to do to each
        _require_taken(path, images.shape[1:3], form)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    pictures = (Image.fromarray(one[..., 0] if one.shape[2] == 1 else one) for one in images)
    return np.stack([_array(_opaque(one), form, path) for one in pictures])


def _of_idx(path: str, form: _Form, of_labels: str | None = None) -> _Part:
    images = _idx(path, _IDX_IMAGES, 3)
    if (of_labels := of_labels or _labels_beside(path)) is None:
        return _Part(path, _with_channels(path, images, form), None)
    labels = _idx(of_labels, _IDX_LABELS, 1)
    if len(labels) != len(images):
        raise DataError(f"{of_labels}: expected {len(images):,} labels, as {path} has images, got {len(labels):,}.")
    return _Part(path, _with_channels(path, images, form), [str(one) for one in labels.tolist()])


def _labels_beside(path: str) -> str | None:
    folder, name = os.path.split(os.path.expanduser(path))
    beside = os.path.join(folder, name.replace("idx3", "idx1").replace("images", "labels"))
    return next((one for one in (beside, beside.removesuffix(".gz"), f"{beside}.gz") if os.path.isfile(one)), None)


def _idx(path: str, begins: int, dimensions: int) -> np.ndarray:
    """An IDX file of bytes: a magic number, the sizes as big-endian integers, and the bytes."""
    content = sources.read_whole(path)
    if content.startswith(sources.GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: a damaged gzip file ({error}).") from None
    head = np.frombuffer(content[: 4 * (1 + dimensions)], ">u4") if len(content) >= 4 * (1 + dimensions) else np.zeros(1)
    if int(head[0]) != begins:
        raise DataError(f"{path}: expected an IDX file of bytes in {dimensions} dimensions, got something else.")
    sizes = tuple(int(one) for one in head[1:])
    expected, got = math.prod(sizes), len(content) - 4 * (1 + dimensions)
    if got != expected:
        raise DataError(
            f"{path}: expected {expected:,} bytes ({_by(sizes)}) behind its head, got {got:,}: cut short or damaged."
        )
    return np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions)).reshape(sizes)


def _opaque(picture: Image.Image) -> Image.Image:
    """On white, where it has transparent parts."""
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _array(picture: Image.Image, form: _Form, path: str) -> np.ndarray:
    """(channels, height, width), uint8."""
    picture = picture.convert("RGB" if form.colour else "L")
    if form.size:
        picture = picture.resize((form.size, form.size), Image.Resampling.LANCZOS)
    else:
        _require_taken(path, (picture.height, picture.width), form)
    array = np.asarray(picture)
    return array.transpose(2, 0, 1) if form.colour else array[None]


def _require_taken(path: str, size: tuple[int, ...], form: _Form) -> None:
    if form.trained_on:
        if size not in form.trained_on:
            raise DataError(
                f"{path}: expected images of {' or '.join(map(_by, form.trained_on))} pixels, as those it was trained on, got "
                f"{_by(size)}. Resize them, or train with --size (in Python, size=), which resizes images of any size."
            )
    elif max(size) > form.largest:
        raise DataError(
            f"{path}: expected images of at most {form.largest} x {form.largest} pixels, got {_by(size)}. "
            "Training with --size (in Python, size=) resizes them."
        )


def _require_same_size(path: str, size: tuple[int, ...], first: str, expected: tuple[int, ...]) -> None:
    if size != expected:
        raise DataError(
            f"{path}: expected images of one size, {_by(expected)} as {first}, got {_by(size)}. "
            "Training with --size (in Python, size=) resizes them."
        )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in size)


def _in_order(name: str) -> tuple[bool, int, str]:
    """Whole numbers as numbers, before other names."""
    number = name.isascii() and name.isdigit()
    return not number, int(name) if number else 0, name


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"
