"""Byte-pair encoding by Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_RUN = 100
"""Longer runs of characters without a space, as in DNA, are split: time grows with the square of their length."""


def from_json(content: Any, empty: Any) -> Any:
    """A Hugging Face tokenizer with the vocabulary and the merges of a parsed JSON; all else is that of `empty`.

    What else such a file can say is not ours to do: special tokens that text may spell, padding by gigabytes, patterns
    that take for ever.

    Raises:
        ValueError: ids that are not 0 to V - 1, or tokens that are not bytes where `empty` has them.
    """
    from tokenizers import Tokenizer as Library

    parts, model = json.loads(empty.to_str()), content["model"]
    given = {name: model[name] for name in ("vocab", "merges") if name in parts["model"]}
    library = Library.from_str(json.dumps({**parts, "added_tokens": [], "model": {**parts["model"], **given}}))
    vocabulary = library.get_vocab()
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):  # one past the end would be read from behind the tables
        raise ValueError(f"expected ids 0 to {len(vocabulary) - 1} in the vocabulary, each once")
    if "merges" in given and (letters := set("".join(vocabulary)) - byte_of_letter().keys()):
        raise ValueError(f"expected tokens of bytes, each written as a letter, got {min(letters)!r} in one")
    return library


def without_special_text(library: Any, empty: Any) -> Any:
    """The same tokenizer, to which text that reads like a special token is text."""
    return from_json(json.loads(library.to_str()), empty)


def empty(*, add_prefix_space: bool) -> Any:
    """Byte-level byte-pair encoding (Sennrich, Haddow and Birch 2016; Radford et al. 2019) that has learned nothing."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    by_bytes: Any = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    if not add_prefix_space:  # each part would get one
        split_long = pre_tokenizers.Split(Regex(rf"\S{{{LONGEST_RUN}}}"), "isolated")
        by_bytes = pre_tokenizers.Sequence([split_long, by_bytes])
    library.pre_tokenizer = by_bytes
    library.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return library


def learn(texts: Iterable[str], size: int, specials: Sequence[str], *, add_prefix_space: bool) -> Any:
    """`empty` after it has learned `size` tokens, `specials` first."""
    from tokenizers import pre_tokenizers, trainers

    library = empty(add_prefix_space=add_prefix_space)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return without_special_text(library, empty(add_prefix_space=add_prefix_space))


def byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes every byte as one printable letter (Radford et al. 2019, GPT-2): letter -> byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}
