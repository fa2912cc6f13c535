"""Reading captions from the files that people have: tables, JSON of COCO and of Karpathy, JSON lines, a .txt per photo."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from unrolled.data import sources
from unrolled.data.words import words
from unrolled.errors import DataError, nearest

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".avif"}
IMAGE_COLUMNS = ("image", "image_name", "file_name", "filename", "file", "image_path", "filepath", "path", "photo", "img")
CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "sentence", "sentences")
DELIMITERS = "\t|;,"
"""Tried in this order: a comma may stand in any caption."""


@dataclass
class Captions:
    """What a captions file holds."""

    captions: dict[str, list[str]]
    """Photo -> its captions."""
    unlisted: list[str] = field(default_factory=list)
    """Of COCO's JSON: the photos that annotations name by number and that are not in its list."""
    splits: dict[str, str] = field(default_factory=dict)
    """Of Karpathy's JSON: photo -> train, restval, val or test."""


Pairs = Iterable[tuple[str, str]]


def captions_file(path: str | Path) -> str:
    """The captions file itself, or the one in a folder; the folder, if it has a .txt beside each photo.

    Raises:
        DataError: no such file or folder, or none or several that could be it.
    """
    kind = sources.kind_of(str(path))
    if kind in ("file", "pipe"):
        return os.path.expanduser(path)
    folder = Path(os.path.expanduser(path))
    if kind == "nothing":
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise DataError(f"{path}: no such file or folder.{nearest(folder.name, siblings)}")
    try:
        files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    photos = {entry.stem for entry in files if entry.suffix.lower() in EXTENSIONS}
    files = [entry for entry in files if entry.suffix.lower() != ".txt" or entry.stem not in photos]
    for pattern in (
        r"captions?\.(tsv|csv|txt|json|jsonl)",
        r".*token.*\.txt|.*\.token",
        r".*caption.*\.(tsv|csv|txt|json|jsonl)",
        r".*\.(tsv|csv|json|jsonl)",
    ):
        if matching := [entry for entry in files if re.fullmatch(pattern, entry.name, re.IGNORECASE)]:
            if len(matching) == 1:
                return str(matching[0])
            raise DataError(
                f"{path}: expected one captions file, got {', '.join(entry.name for entry in matching)}. Name the one."
            )
    if next(_photos_with_text(folder), None):
        return str(folder)
    raise DataError(
        f"{path}: no captions in it: no .tsv, .csv, .json, .jsonl or Flickr's token file, and no .txt beside a photo. "
        "Name the file itself."
    )


def read_captions(path: str | Path, encoding: str = "auto") -> dict[str, list[str]]:
    """Photo -> its captions, in an encoding as `sources.Source` has it. Read are

    - a CSV or TSV of (image, caption) or (image, number, caption), with or without a header; Flickr30k's results.csv;
    - the token file of Flickr8k and 30k (`photo.jpg#0<tab>caption`);
    - JSON: COCO's, Karpathy's splits, a list of objects with an image and a caption, or an object of name: captions;
    - JSON lines of such objects, as metadata.jsonl of Hugging Face's image folders;
    - a folder with a .txt beside each photo, a caption a line.

    Raises:
        DataError: it cannot be read, has other columns, or no caption is left once empty ones are dropped.
    """
    return read(str(path), encoding).captions


def read(path: str, encoding: str = "auto") -> Captions:
    """What `read_captions` reads, with what else the file says.

    Raises:
        DataError: as there.
    """
    unlisted: dict[str, None] = {}  # a set in order
    splits: dict[str, str] = {}
    if sources.kind_of(path) == "folder":
        pairs: Pairs = _from_folder(Path(path), encoding)
    else:
        text, suffix = read_text(path, encoding), Path(path).suffix.lower()
        if suffix == ".jsonl":
            pairs = _from_json_lines(path, text)
        elif suffix == ".json" or (suffix not in (".csv", ".tsv", ".txt", ".token") and text.lstrip()[:1] in ("{", "[")):
            pairs = _from_json(path, text, unlisted, splits)
        else:
            pairs = _from_table(path, text)
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        caption = " ".join(re.sub("[\ud800-\udfff]", "\ufffd", caption).split())  # half a surrogate pair is no character
        if name and words(caption):
            captions.setdefault(name, []).append(caption)
    if not captions and unlisted:
        raise DataError(
            f"{path}: none of the {len(unlisted):,} photos that annotations have captions for is in images, "
            f"the first {next(iter(unlisted))}."
        )
    if not captions:
        raise DataError(f"{path}: no caption with a word in it is left. Expected lines of a photo's name and a caption.")
    return Captions(captions, [*unlisted], {name: split for name, split in splits.items() if name in captions})


def read_text(path: str, encoding: str = "auto") -> str:
    """The text of a file or a pipe; `auto` is what its byte order mark says, and UTF-8 without one.

    Raises:
        DataError: it cannot be read, or is in another encoding.
    """
    content = sources.read_whole(path)
    if encoding == "auto":
        encoding = sources.marked_encoding(content) or "utf-8"
    if b"\0" in content and encoding.startswith("utf-8"):
        raise DataError(
            f"{path}: expected UTF-8 text, got zero bytes: a binary file, or UTF-16 without a byte order mark. "
            "If it is, add --encoding utf-16-le or utf-16-be (in Python, encoding='utf-16-le')."
        )
    try:
        return content.decode(encoding)
    except UnicodeError as error:
        place = f" at offset {error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path}: expected {encoding.upper()} text, got an invalid byte{place}. "
            "Name its encoding, such as --encoding latin-1 (evaluate: --set encoding=latin-1; in Python, encoding='latin-1')."
        ) from None


def _from_folder(folder: Path, encoding: str) -> Pairs:
    for photo in _photos_with_text(folder):
        for line in read_text(str(photo.with_suffix(".txt")), encoding).splitlines():
            yield photo.relative_to(folder).as_posix(), line


def _photos_with_text(folder: Path) -> Iterator[Path]:
    for photo in sorted(folder.rglob("*")):
        if photo.suffix.lower() in EXTENSIONS and not photo.name.startswith(".") and photo.with_suffix(".txt").is_file():
            yield photo


Row = tuple[int, list[str]]
"""The line that it begins in, and its fields."""


def _from_table(path: str, text: str) -> Pairs:
    first = next((line for line in re.split(r"\r\n?|\n", text) if line.strip()), "")
    delimiter = next((mark for mark in DELIMITERS if _fits(first, mark)), "\t" if "\t" in first else ",")
    rows = [row for row in _rows(path, text, delimiter) if any(part.strip() for part in row[1])]
    if not rows:
        return []
    header = [part.strip().lower() for part in rows[0][1]]
    if any(part in CAPTION_COLUMNS for part in header):
        image, caption = _columns(path, rows[0][1], header)
        rows, width = rows[1:], len(header)
    else:
        width = len(header)
        if width not in (2, 3):
            raise DataError(
                f"{path}: expected 2 columns (image, caption) or 3 (image, number, caption), got {width}: {rows[0][1]!r}. "
                "Separate them by tabs in a .tsv or commas in a .csv, or name them in a header."
            )
        image, caption = 0, width - 1
        if not _names_image(rows[0][1][0]):
            raise DataError(
                f"{path}: expected the name of an image in the first column, such as photo.jpg, got {rows[0][1][0]!r}."
            )
    pairs = []
    for number, row in rows:
        if delimiter == "|" and len(row) == 2 and (parts := re.fullmatch(r"\s*(\d+)\s+(.*)", row[1])):
            row = [row[0], *parts.groups()]  # a line of Flickr30k's lacks its second bar
        if len(row) != width:
            raise DataError(f"{path}: line {number}: expected {width} columns as in the first line, got {len(row)}: {row!r}.")
        pairs.append((re.sub(r"#\d+$", "", row[image].strip()), row[caption]))
    return pairs


def _fits(line: str, delimiter: str) -> bool:
    """Whether this can be what separates the columns, by the first line."""
    parts = [part.strip(' "').lower() for part in line.split(delimiter)]
    named = any(part in CAPTION_COLUMNS for part in parts) and any(part in IMAGE_COLUMNS for part in parts)
    return len(parts) > 1 and (named or _names_image(parts[0]))


def _names_image(text: str) -> bool:
    return PurePosixPath(text.partition("#")[0].strip()).suffix.lower() in EXTENSIONS


def _rows(path: str, text: str, delimiter: str) -> list[Row]:
    """The rows of a table. In one of commas or semicolons, quotes are CSV's; in others only if the whole file is so."""
    try:
        if delimiter != "|":
            return _quoted_rows(path, text, delimiter)
    except DataError:
        if delimiter != "\t":
            raise
    return [(number, line.split(delimiter)) for number, line in enumerate(re.split(r"\r\n?|\n", text), 1)]


def _quoted_rows(path: str, text: str, delimiter: str) -> list[Row]:
    """By the csv module, strictly.

    Raises:
        DataError: a quote that is not closed, or characters behind one that is.
    """
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in reader:
            for part in row:
                later = re.split(r"\r\n?|\n", part)[1:] if "\n" in part or "\r" in part else []
                if any(delimiter in line and _names_image(line.split(delimiter)[0]) for line in later):
                    raise csv.Error("a field that goes on over rows of photos")
            rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {begins}: expected quotes around a whole field, closed, and doubled within it; got {error}. "
            "Is a quote missing or one too many there?"
        ) from None
    return rows


def _columns(path: str, row: list[str], header: list[str]) -> tuple[int, int]:
    def place(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    image, caption = place(IMAGE_COLUMNS), place(CAPTION_COLUMNS)
    if image is None or caption is None:
        raise DataError(f"{path}: expected columns named image and caption in the header, got {', '.join(row)}.")
    return image, caption


def _from_json_lines(path: str, text: str) -> Pairs:
    for number, line in enumerate(re.split(r"\r\n?|\n", text), 1):
        if line.strip():
            yield from _record(_parse(f"{path}: line {number}", line), f"{path}: line {number}")


def _from_json(path: str, text: str, unlisted: dict[str, None], splits: dict[str, str]) -> Pairs:
    content = _parse(path, text)
    try:
        if isinstance(content, list):
            return [pair for number, one in enumerate(content, 1) for pair in _record(one, f"{path}: object {number}")]
        if "annotations" in content:
            return _from_coco(content, unlisted)
        if content.get("images") and all("sentences" in image for image in content["images"]):
            return _from_karpathy(content, splits)
        if content and all(isinstance(name, str) and _names_image(name) for name in content):
            return [(name, caption) for name, several in content.items() for caption in _texts(several)]
        raise KeyError("annotations")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: expected COCO's captions, with images (id, file_name) and annotations (image_id, caption), Karpathy's, "
            f"or a list of objects with image and caption, got something else ({type(error).__name__}: {error})."
        ) from None


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = " If it has an object a line, name it .jsonl." if "Extra data" in str(error) else ""
        raise DataError(f"{where}: is not valid JSON ({error}).{lines}") from None


def _from_coco(content: Any, unlisted: dict[str, None]) -> Pairs:
    names = {str(image["id"]): str(image["file_name"]) for image in content["images"]}
    pairs = []
    for one in content["annotations"]:
        if (name := names.get(str(one["image_id"]))) is None:
            unlisted[f"image_id {one['image_id']}"] = None
            continue
        pairs += [(name, caption) for caption in _texts(one["caption"])]
    return pairs


def _from_karpathy(content: Any, splits: dict[str, str]) -> Pairs:
    """`dataset_flickr8k.json` and its kin (Karpathy and Fei-Fei 2015), which say what is for training, validation and test."""
    pairs = []
    for image in content["images"]:
        name = str(PurePosixPath(image.get("filepath") or "", image["filename"]))
        if "split" in image:
            splits[name] = str(image["split"])
        for sentence in image["sentences"]:
            pairs += [(name, text) for text in _texts(sentence["raw"] if "raw" in sentence else " ".join(sentence["tokens"]))]
    return pairs


def _record(one: Any, where: str) -> Pairs:
    """An object with an image and one caption or several."""
    if not isinstance(one, dict):
        raise DataError(f"{where}: expected an object with an image and a caption, got {json.dumps(one)[:60]}.")
    image = next((one[key] for key in IMAGE_COLUMNS if isinstance(one.get(key), str)), None)
    caption = next((key for key in CAPTION_COLUMNS if key in one), None)
    if image is None or caption is None:
        raise DataError(
            f"{where}: expected an object with file_name (or image, ...) and text (or caption, ...), "
            f"got {', '.join(one) or 'an empty one'}."
        )
    try:
        return [(image, text) for text in _texts(one[caption])]
    except TypeError as error:
        raise DataError(f"{where}: {error}.") from None


def _texts(captions: Any) -> list[str]:
    """One caption or a list of them; null is none."""
    several = captions if isinstance(captions, list) else [captions]
    if wrong := [one for one in several if not isinstance(one, (str, type(None)))]:
        raise TypeError(f"expected a caption, got {json.dumps(wrong[0])[:60]}")
    return [one for one in several if one is not None]
