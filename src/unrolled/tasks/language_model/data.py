"""The text of a run: learned from in parallel streams, measured on its tail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unrolled.data import sources, tokenizers
from unrolled.data.token_streams import TokenStreams, encode_documents, open_tokens, write_tokens
from unrolled.data.tokenizers import Tokenizer
from unrolled.errors import DataError
from unrolled.tasks.language_model.config import Config

FOLDER = "data"


def prepare(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Learn the vocabulary, encode the text, and leave both in the run folder.

    Raises:
        DataError: no text, unreadable text, or too little of it.
    """
    left_out: dict[str, str] = {}
    documents = sources.find(
        config.data, binary=config.unit == "byte", encoding=config.encoding, left_out=left_out, byte_unit=True
    )
    if left_out:
        say(sources.describe(left_out))
    if config.documents and len(documents) < 2:
        raise DataError(
            f"documents (--documents) expected several files to keep apart, got one ({documents[0].path}). Leave it out."
        )
    tokenizer = tokenizers.learn(config.unit, documents, config.vocabulary_size)
    (folder / FOLDER).mkdir()
    write_tokens(documents, tokenizer, folder / FOLDER)
    tokenizer.save(folder)
    streams(
        config, split(config, open_tokens(folder / FOLDER, tokenizer.size))[0]
    )  # refuses too little text before anything starts


def split(config: Config, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation): the tail is for validation, and begins with the token before it, from which it is predicted."""
    kept = int(len(tokens) * config.validation_fraction)
    if not kept:
        return tokens, tokens[:0]
    return tokens[: len(tokens) - kept], tokens[len(tokens) - kept - 1 :]


def streams(config: Config, tokens: np.ndarray) -> TokenStreams:
    return TokenStreams(tokens, config.batch_size, config.k1, config.seed)


def encode(paths: list[str], tokenizer: Tokenizer, encoding: str = "utf-8") -> tuple[np.ndarray, dict[str, str]]:
    """The tokens of some text, for measuring on it, and the files that were left out, with the reason.

    Raises:
        DataError: fewer than two tokens: there is nothing to predict.
    """
    left_out: dict[str, str] = {}
    documents = sources.find(paths, binary=tokenizer.unit == "byte", encoding=encoding, left_out=left_out, byte_unit=True)
    tokens = np.concatenate([np.empty(0, np.int64), *encode_documents(documents, tokenizer)])
    if len(tokens) < 2:
        raise DataError(f"{', '.join(paths)}: expected at least 2 tokens to measure on, got {len(tokens)}.")
    return tokens, left_out
