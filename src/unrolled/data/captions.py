"""Captioned photos: finding the captions in their usual files, and the photos they describe."""

from __future__ import annotations

import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unrolled.data import caption_files, sources
from unrolled.data.caption_files import EXTENSIONS, captions_file, read_captions
from unrolled.data.sentences import SentenceTokenizer
from unrolled.errors import DataError

__all__ = [
    "EXTENSIONS",
    "CaptionedPhoto",
    "Found",
    "Photo",
    "captions_file",
    "find",
    "find_photos",
    "read_captions",
    "read_list",
]


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
        if (kind := sources.kind_of(self.path)) not in ("file", "nothing"):
            raise DataError(f"{self.path}: expected a photo, got a {kind}.")
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
    splits: dict[str, str] = field(default_factory=dict)
    """Name -> train, val, test, ..., where the captions' file says so."""


def find(data: Sequence[str], images: str | None = None, encoding: str = "auto") -> Found:
    """Captioned photos from what a user names.

    Args:
        data: a captions file, a pipe, or a folder that holds a captions file or a .txt beside each photo; further names are
            lists, files that name one photo a line, which limit it to these.
        images: the folder or .tar of the photos; when left out, looked for beside the captions: `images.tar`, another .tar, the
            folders `images` and `Images`, else the folder itself.
        encoding: of the captions and the lists, see `sources.Source.encoding`.

    Raises:
        DataError: no such file, no captions in it, columns that are not what they have to be, no photo that it names, or a
            name that stands for several photos.
    """
    if not data:
        raise DataError("expected a captions file, or a folder that holds one, got nothing.")
    source = captions_file(data[0])
    if not images and sources.kind_of(source) == "pipe":
        raise DataError(f"{source}: captions from a pipe have no folder beside them. Say where the photos are with --images.")
    read = caption_files.read(source, encoding)
    captions, absent = read.captions, read.unlisted
    wanted = [name for path in data[1:] for name in read_list(path, captions, encoding)]
    if wanted:
        captions = {name: captions[name] for name in wanted if name in captions}
        if not captions:
            raise DataError(
                f"{', '.join(data[1:])}: none of its {len(wanted):,} names is a photo that {source} has captions for."
            )
    where = Path(images) if images else _beside(Path(source))
    present = _match(list(captions), find_photos(where), where)
    found = [CaptionedPhoto(name, present[name], several) for name, several in captions.items() if name in present]
    absent = absent + [name for name in captions if name not in present]
    if not found:
        raise DataError(
            f"{source}: none of the {len(captions):,} photos it names is in {where}; the first is {next(iter(captions))!r}. "
            "Say where they are with --images."
        )
    return Found(found, absent, read.splits)


def read_list(path: str | Path, known: Iterable[str] = (), encoding: str = "auto") -> list[str]:
    """The names of photos that a file lists, one a line; names without folder or extension are matched to `known`.

    Raises:
        DataError: it cannot be read, names none, or a name stands for several photos.
    """
    names = [line.strip() for line in caption_files.read_text(str(path), encoding).replace("\r", "\n").split("\n")]
    names = [name for name in names if name]
    if not names:
        raise DataError(f"{path}: expected a list of photos, one a line, got an empty file.")
    exact, shorter = set(known), defaultdict(set)
    for name in exact:
        whole = PurePosixPath(name)
        for short in (str(whole.with_suffix("")), whole.name, whole.stem):
            shorter[short].add(name)
    listed = []
    for name in names:
        several = {name} if name in exact else shorter.get(name, shorter.get(PurePosixPath(name).stem, set()))
        if len(several) > 1:
            raise DataError(f"{path}: {name!r} stands for {_and_others(several)}. Write its folder before it.")
        listed += several or [name]
    return listed


def _beside(source: Path) -> Path:
    if source.is_dir():  # a .txt beside each photo
        return source
    folder = source.parent
    for candidate in (folder / "images.tar", folder / "images", folder / "Images"):
        if candidate.exists():
            return candidate
    return next(iter(sorted(folder.glob("*.tar"))), folder)


def find_photos(where: Path) -> dict[str, Photo]:
    """Every image file of a folder, searched whole, or of a .tar, by its path in there; hidden ones are passed over.

    Raises:
        DataError: no such folder or file, or no .tar.
    """
    photos: dict[str, Photo] = {}
    if (kind := sources.kind_of(str(where))) == "pipe":
        raise DataError(f"{where}: expected a folder or an uncompressed .tar of photos, got a pipe.")
    if kind == "folder":
        for path in sorted(where.rglob("*")):
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file():
                photos[path.relative_to(where).as_posix()] = Photo(str(path.resolve()))
        return photos
    try:
        with tarfile.open(where, "r:") as archive:  # uncompressed: each photo is a stretch of the file
            for member in archive:
                path = PurePosixPath(member.name)
                if member.isfile() and path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
                    photos[str(path)] = Photo(str(where.resolve()), member.offset_data, member.size)
    except FileNotFoundError:
        raise DataError(f"{where}: no such folder or file. Say where the photos are with --images.") from None
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{where}: expected a folder or an uncompressed .tar of photos ({error}).") from None
    return photos


def _match(names: Sequence[str], photos: dict[str, Photo], where: Path) -> dict[str, Photo]:
    """The photo of each name that has one: that whose path shares most with it, from the end, the file's name at least.

    Of several names that come to the same photo only the closest gets it.

    Raises:
        DataError: a name comes to several photos equally well, or several names to one.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in photos:
        by_name[_parts(path)[-1]].append(path)
    claims: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        if name in photos:
            claims[name].append((1 << 30, name))
            continue
        wanted = _parts(name)
        closeness = {path: _shared(wanted, _parts(path)) for path in by_name[wanted[-1]]}
        most = max(closeness.values(), default=0)
        closest = [path for path, shared in closeness.items() if shared == most]
        if len(closest) > 1:
            raise DataError(
                f"{where}: {name!r} stands for {_and_others(closest)}. Write the folder before the name in the captions."
            )
        if closest:
            claims[closest[0]].append((most, name))
    found: dict[str, Photo] = {}
    for path, claimed in claims.items():
        most = max(shared for shared, _ in claimed)
        closest = [name for shared, name in claimed if shared == most]
        if len({_parts(name) for name in closest}) > 1:
            raise DataError(f"{where}: the captions of {_and_others(closest)} come to one photo, {path}.")
        found |= dict.fromkeys(closest, photos[path])
    return found


def _parts(path: str) -> tuple[str, ...]:
    """The folders and the name, from either kind of slash, accents in one form (macOS writes them in another)."""
    parts = PurePosixPath(unicodedata.normalize("NFC", path).replace("\\", "/")).parts
    return parts or ("",)


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts are the same, counted from the end."""
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def _and_others(names: Iterable[str]) -> str:
    several = sorted(names)
    return f"{len(several)} photos: {', '.join(several[:3])}{', ...' if len(several) > 3 else ''}"


class Vocabulary(SentenceTokenizer):
    """`SentenceTokenizer` by the name and the call that captions had for it first."""

    @classmethod
    def learn(  # type: ignore[override]
        cls, unit: str, captions: Iterable[Sequence[str]], minimum_count: int = 1, vocabulary_size: int = 4000
    ) -> SentenceTokenizer:
        """From the captions of each photo."""
        texts = [caption for several in captions for caption in several]
        return super().learn(unit, texts, minimum_count=minimum_count, vocabulary_size=vocabulary_size)
