"""Which reader a file is for: by what a step is, and that by the file's ending."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several

from unrolled.data import labelled_text, sources, tables
from unrolled.data.columns import Columns
from unrolled.data.sequences import Kind, Sequence
from unrolled.data.sources import Source
from unrolled.errors import DataError
from unrolled.tasks.labelling.config import Config

ENDINGS: dict[Kind, tuple[str, ...]] = {
    "words": (".conllu", ".conll", ".iob", ".bio"),
    "characters": (".jsonl", ".ndjson", ".txt"),
    "numbers": (".npy", ".npz", ".csv", ".tsv", ".parquet"),
}


def kind_of(config: Config, paths: Several[str]) -> Kind:
    """What a step of these files is: as the settings say, or by the ending of the first that has a known one.

    Raises:
        DataError: no such file, or none with a known ending.
    """
    if config.kind != "auto":
        return config.kind
    found = sources.find(paths, binary=True)
    for source in found:
        for kind, endings in ENDINGS.items():
            if source.path.removesuffix(".gz").lower().endswith(endings):
                as_words = kind == "characters" and labelled_text.is_json(source) and labelled_text.has_words(source)
                return "words" if as_words else kind
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
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
    for source in sources.find(paths, binary=kind not in ("words", "characters"), encoding=config.encoding):
        yield from read_one(config, kind, source, labelled)


def read_one(config: Config, kind: Kind, source: Source, labelled: bool = True) -> Iterator[Sequence]:
    """The sequences of one file, as `read`."""
    if kind == "numbers":
        yield from tables.read(source, label=config.label_column, sequence=config.sequence_column, multi=config.multi)
        return
    if kind == "words" and not labelled_text.is_json(source):
        yield from Columns(source, config.word_column, config.label_column, config.multi).sentences(labelled)
        return
    for sequence in labelled_text.read(source, multi=config.multi):
        if isinstance(sequence.inputs, str) != (kind == "characters"):
            raise DataError(f"{sequence.name}: expected {kind}, as in the first file, got the other.")
        yield sequence


def fill(config: Config, source: Source, labels: Iterable[list[str]]) -> Iterator[str]:
    """The lines of a file of words with the labels of its sentences, in order, put in their place."""
    if labelled_text.is_json(source):
        return labelled_text.filled(source, labels)
    return Columns(source, config.word_column, config.label_column, config.multi).filled(labels)
