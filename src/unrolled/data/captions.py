"""Captioned photos: finding the captions in their usual files, and the photos they describe."""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unrolled.data.sentences import WORD
from unrolled.errors import DataError, nearest

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".avif"}


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo and what people wrote about it."""

    name: str
    """The photo's file name, as the captions have it."""
    photo: Photo
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Photo:
    """Where a photo's bytes are: a file, or a stretch of a .tar."""

    path: str
    """Absolute, so that a run can be resumed from any folder."""
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The content of its file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror}).") from None


@dataclass(frozen=True)
class Found:
    """What `find` found."""

    photos: list[CaptionedPhoto]
    """In the order of the captions' file."""
    absent: list[str]
    """Photos that captions name and that are not there."""


def find(data: Sequence[str], images: str | None = None) -> Found:
    """Captioned photos from what a user names.

    Args:
        data: a captions file, or a folder that holds one; further names are lists, files that name one photo a line, which
            limit it to these.
        images: the folder or .tar of the photos; when left out, looked for beside the captions: `images.tar`, another .tar, the
            folders `images` and `Images`, else the folder itself.

    Raises:
        DataError: no such file, no captions in it, columns that are not what they have to be, no photo that it names.
    """
    if not data:
        raise DataError("expected a captions file, or a folder that holds one, got nothing.")
    source = captions_file(Path(data[0]))
    captions = read_captions(source)
    wanted = [name for path in data[1:] for name in read_list(Path(path), captions)]
    if wanted:
        captions = {name: captions[name] for name in wanted if name in captions}
        if not captions:
            raise DataError(
                f"{', '.join(data[1:])}: none of its {len(wanted):,} names is a photo that {source} has captions for."
            )
    photos = find_photos(Path(images) if images else _beside(source))
    present = {name: photos.get(name) or photos.get(Path(name).name) for name in captions}
    found = [CaptionedPhoto(name, photo, captions[name]) for name, photo in present.items() if photo]
    absent = [name for name, photo in present.items() if not photo]
    if not found:
        where = images or _beside(source)
        raise DataError(
            f"{source}: none of the {len(captions):,} photos it names is in {where}; the first is {absent[0]!r}. "
            "Say where they are with --images."
        )
    return Found(found, absent)


def captions_file(path: Path) -> Path:
    """The captions file itself, or the one in a folder.

    Raises:
        DataError: no such file or folder, or none or several that could be it.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        siblings = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder.{nearest(str(path), siblings)}")
    files = [entry for entry in sorted(path.iterdir()) if entry.is_file()]
    for pattern in (
        r"captions?\.(tsv|csv|txt|json)",
        r".*token.*\.txt",
        r".*caption.*\.(tsv|csv|txt|json)",
        r".*\.(tsv|csv|json)",
    ):
        if matching := [entry for entry in files if re.fullmatch(pattern, entry.name, re.IGNORECASE)]:
            if len(matching) == 1:
                return matching[0]
            raise DataError(
                f"{path}: expected one captions file, got {', '.join(entry.name for entry in matching)}. Name the one."
            )
    raise DataError(f"{path}: no captions file in it (.tsv, .csv, .json or Flickr's token file). Name the file itself.")


def read_captions(path: Path) -> dict[str, list[str]]:
    """Photo -> its captions, from a CSV or TSV of (image, caption) or (image, number, caption), with or without a header;
    COCO's JSON; or the token file of Flickr8k and 30k (`photo.jpg#0<tab>caption`).

    Raises:
        DataError: it cannot be read, has other columns, or no caption is left once empty ones are dropped.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, got an invalid byte at offset {error.start}.") from None
    pairs = _from_json(path, text) if path.suffix.lower() == ".json" else _from_table(path, text)
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        caption = " ".join(caption.split())
        if name and WORD.search(caption):
            captions.setdefault(name, []).append(caption)
    if not captions:
        raise DataError(f"{path}: no caption with a word in it is left. Expected lines of a photo's name and a caption.")
    return captions


def _from_table(path: Path, text: str) -> Iterable[tuple[str, str]]:
    first = text.split("\n", 1)[0]
    if "\t" in first:
        rows = [line.rstrip("\r").split("\t") for line in text.split("\n")]
    else:
        rows = list(csv.reader(text.splitlines()))
    rows = [row for row in rows if any(part.strip() for part in row)]
    if not rows:
        return []
    header = [part.strip().lower() for part in rows[0]]
    named = any(part in ("caption", "captions", "comment", "text", "sentence") for part in header)
    if named:
        image, caption = _columns(path, rows[0], header)
        rows, width = rows[1:], len(header)
    else:
        width = len(rows[0])
        if width not in (2, 3):
            raise DataError(
                f"{path}: expected 2 columns (image, caption) or 3 (image, number, caption), got {width}: {rows[0]!r}. "
                "Separate them by tabs in a .tsv or commas in a .csv, or name them in a header."
            )
        image, caption = 0, width - 1
        if Path(rows[0][0].partition("#")[0].strip()).suffix.lower() not in EXTENSIONS:
            raise DataError(
                f"{path}: expected the name of an image in the first column, such as photo.jpg, got {rows[0][0]!r}."
            )
    for number, row in enumerate(rows, 2 if named else 1):
        if len(row) != width:
            raise DataError(f"{path}: line {number}: expected {width} columns as in the first line, got {len(row)}: {row!r}.")
    return [(re.sub(r"#\d+$", "", row[image].strip()), row[caption]) for row in rows]


def _columns(path: Path, row: list[str], header: list[str]) -> tuple[int, int]:
    def place(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    image = place(("image", "image_name", "file_name", "filename", "file", "image_path", "path", "photo"))
    caption = place(("caption", "captions", "comment", "text", "sentence"))
    if image is None or caption is None:
        raise DataError(f"{path}: expected columns named image and caption in the header, got {', '.join(row)}.")
    return image, caption


def _from_json(path: Path, text: str) -> Iterable[tuple[str, str]]:
    try:
        content: Any = json.loads(text)
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        return [(names[one["image_id"]], str(one["caption"])) for one in content["annotations"]]
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error}).") from None
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected COCO's captions, with images (id, file_name) and annotations (image_id, caption), "
            f"got something else ({type(error).__name__}: {error})."
        ) from None


def read_list(path: Path, known: Iterable[str] = ()) -> list[str]:
    """The names of photos that a file lists, one a line; without extensions they are matched to `known`.

    Raises:
        DataError: it cannot be read, or names none.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}). Expected a list of photos, one a line.") from None
    names = [name for name in names if name]
    if not names:
        raise DataError(f"{path}: expected a list of photos, one a line, got an empty file.")
    by_stem = {Path(name).stem: name for name in known}
    exact = set(known)
    return [name if name in exact else by_stem.get(name, name) for name in names]


def _beside(source: Path) -> Path:
    folder = source.parent
    for candidate in (folder / "images.tar", folder / "images", folder / "Images"):
        if candidate.exists():
            return candidate
    return next(iter(sorted(folder.glob("*.tar"))), folder)


def find_photos(where: Path) -> dict[str, Photo]:
    """Every image file of a folder, searched whole, or of a .tar: by its path in there, and by its name alone.

    Raises:
        DataError: no such folder or file, or no .tar.
    """
    photos: dict[str, Photo] = {}
    if where.is_dir():
        for path in sorted(where.rglob("*")):
            if path.suffix.lower() in EXTENSIONS and path.is_file():
                photos[str(path.relative_to(where))] = Photo(str(path.resolve()))
                photos.setdefault(path.name, Photo(str(path.resolve())))
        return photos
    try:
        with tarfile.open(where, "r:") as archive:  # uncompressed: each photo is a stretch of the file
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS:
                    photo = Photo(str(where.resolve()), member.offset_data, member.size)
                    photos[member.name.removeprefix("./")] = photo
                    photos.setdefault(Path(member.name).name, photo)
    except FileNotFoundError:
        raise DataError(f"{where}: no such folder or file. Say where the photos are with --images.") from None
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{where}: expected a folder or an uncompressed .tar of photos ({error}).") from None
    return photos
