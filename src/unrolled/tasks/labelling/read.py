"""Which reader a file is for: by what a step is, and that by the file's ending."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Several
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from unrolled import encoders
from unrolled.data import audio, labelled_text, sources, tables, video
from unrolled.data.audio import LogMel
from unrolled.data.columns import Columns
from unrolled.data.features import FeatureCache
from unrolled.data.label_files import LabelFile, from_folders, lists_files
from unrolled.data.sequences import Kind, Sequence
from unrolled.data.sources import Source
from unrolled.errors import ConfigError, DataError
from unrolled.tasks.labelling.config import Config

ENDINGS: dict[Kind, tuple[str, ...]] = {
    "words": (".conllu", ".conll", ".iob", ".bio"),
    "characters": (".jsonl", ".ndjson", ".txt"),
    "numbers": (".npy", ".npz", ".csv", ".tsv", ".parquet"),
    "audio": audio.ENDINGS,
    "video": (*video.ENDINGS, *video.ARCHIVES, *video.FRAMES),
}
EVERY_ENDING = tuple(ending for endings in ENDINGS.values() for ending in endings)


def kind_of(config: Config, paths: Several[str]) -> Kind:
    """What a step of these files is: as the settings say, or by the ending of the first that has a known one.

    Raises:
        DataError: no such file, or none with a known ending.
    """
    if config.kind != "auto":
        return config.kind
    found = sources.find([file for path in paths for file in _listed(config, path) or [path]], binary=True)
    media: tuple[Kind, ...] = ("audio", "video")
    others: tuple[Kind, ...] = ("words", "characters", "numbers")
    for kinds in (media, others):  # a table beside recordings is about them
        for source in found:
            for kind in kinds:
                name = source.path.lower()
                if name.endswith(ENDINGS[kind]) or name.removesuffix(".gz").endswith(ENDINGS[kind]):
                    as_words = kind == "characters" and labelled_text.is_json(source) and labelled_text.has_words(source)
                    return "words" if as_words else kind
    known = ", ".join(EVERY_ENDING)
    raise DataError(f"{found[0].path}: expected a file with one of the endings {known}. Or say what a step is: --kind.")


def read(config: Config, kind: Kind, paths: Several[str], labelled: bool = True) -> Iterator[Sequence]:
    """The sequences of files, file by file.

    Args:
        config: which columns are read.
        kind: what a step is.
        paths: files, folders, patterns, or - for standard input.
        labelled: whether there have to be labels.

    Raises:
        DataError: a file cannot be read.
    """
    if not paths:
        sources.find(paths)
    for path in paths:
        table = _listed(config, path)
        if table is None:
            for source in _find(config, kind, path):
                for sequence in read_one(config, kind, source, labelled):
                    named = labelled and sequence.labels is None and kind in ("audio", "video")
                    yield from_folders(sequence, source.path, config.multi) if named else sequence
            continue
        own = config.model_copy(update={"label_column": None})  # which is a column of the table
        for file in table:
            for source in _find(own, kind, file):
                for sequence in read_one(own, kind, source, labelled=False):
                    if labelled:
                        yield from table.labelled(sequence, file, config.per == "step")
                    else:
                        yield sequence


def _listed(config: Config, path: str) -> LabelFile | None:
    """The files and labels of a table that lists files; None of any other."""
    return LabelFile(path, config.multi, config.label_column) if lists_files(path, EVERY_ENDING) else None


def _find(config: Config, kind: Kind, path: str) -> list[Source]:
    if kind == "video":
        return video.find(path)
    found = sources.find([path], binary=kind not in ("words", "characters"), encoding=config.encoding)
    if kind == "audio" and sources.kind_of(path) == "folder":
        found = [source for source in found if source.path.lower().endswith(audio.ENDINGS)]
        if not found:
            raise DataError(f"{path}: expected recordings ({', '.join(audio.ENDINGS)}), got none.")
    return found


def read_one(config: Config, kind: Kind, source: Source, labelled: bool = True) -> Iterator[Sequence]:
    """The sequences of one file, as `read`."""
    if kind == "audio":
        yield audio.read(source, LogMel(config.sampling_rate, config.mel_bands, config.hop))
        return
    if kind == "video" and config.encoder == "none":
        yield video.read(source, config.frames_per_second, config.frame_size)
        return
    if kind == "video":
        yield video.features(source, config.frames_per_second, _features_of(config.encoder))
        return
    if kind == "numbers":
        yield from tables.read(source, label=config.label_column, sequence=config.sequence_column, multi=config.multi)
        return
    if kind == "words" and not labelled_text.is_json(source):
        yield from Columns(source, config.word_column, config.label_column, config.multi).sentences(labelled)
        return
    for sequence in labelled_text.read(source, multi=config.multi):
        if isinstance(sequence.inputs, str) != (kind == "characters"):
            own = "text" if kind == "words" else "words"
            raise DataError(f'{sequence.name}: expected {kind}, as in training or in the first file, got an object of "{own}".')
        yield sequence


@lru_cache(1)
def _features_of(encoder: str) -> FeatureCache:
    return FeatureCache(encoders.load(encoder).pooled())


def require_encoder(config: Config, kind: Kind) -> None:
    """
    Raises:
        ConfigError: an encoder of something else than video, or one that is not here.
    """
    if config.encoder == "none":
        return
    if kind != "video":
        raise ConfigError(f"encoder: expected none for {kind}, got {config.encoder}. It reads the pictures of videos.")
    _features_of(config.encoder)


def look_of(config: Config) -> Callable[[Image.Image], np.ndarray]:
    """What `read_one` makes of each picture of a video, for pictures that come one by one; nothing is kept on disk.

    Raises:
        ConfigError: there is no such encoder here.
    """
    if config.encoder == "none":
        return lambda picture: video.pixels(picture, config.frame_size)
    encoder = encoders.load(config.encoder).pooled()

    @torch.inference_mode()
    def look(picture: Image.Image) -> np.ndarray:
        features = encoder(encoder.pixels(picture).unsqueeze(0)).flatten()  # (C,)
        return features.half().float().numpy()  # of 16 bits, as those on disk

    return look


def fill(config: Config, source: Source, labels: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a file of words with the labels of its sentences, in order, put in their place."""
    if labelled_text.is_json(source):
        return labelled_text.filled(source, labels)
    return Columns(source, config.word_column, config.label_column, config.multi).filled(labels)
