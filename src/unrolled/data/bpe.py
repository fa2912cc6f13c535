"""Byte-pair encoding by Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_RUN = 100
"""Longer runs of characters without a space, as in DNA, are split: time grows with the square of their length."""


def from_json(content: Any) -> Any:
    """A Hugging Face tokenizer from its parsed JSON, without what would add to a text's tokens or take from them.

    Special tokens keep their ids, but text that reads like one is text; padding and truncation are not ours to do.
    """
    from tokenizers import Tokenizer as Library

    ours = {"added_tokens": [], "padding": None, "truncation": None, "post_processor": None}
    library = Library.from_str(json.dumps({**content, **ours}))
    ids = library.get_vocab().values()
    if sorted(ids) != list(range(len(ids))):  # an id past the end would be read from behind the model's tables
        raise ValueError(f"expected ids 0 to {len(ids) - 1} in the vocabulary, each once")
    return library


def without_special_text(library: Any) -> Any:
    """The same tokenizer, to which text that reads like a special token is text."""
    return from_json(json.loads(library.to_str()))


def learn(texts: Iterable[str], size: int, specials: Sequence[str], *, add_prefix_space: bool) -> Any:
    """Byte-level byte-pair encoding (Sennrich, Haddow and Birch 2016; Radford et al. 2019): `size` tokens, `specials` first."""
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    by_bytes: Any = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    if not add_prefix_space:  # each part would get one
        split_long = pre_tokenizers.Split(Regex(rf"\S{{{LONGEST_RUN}}}"), "isolated")
        by_bytes = pre_tokenizers.Sequence([split_long, by_bytes])
    library.pre_tokenizer = by_bytes
    library.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return without_special_text(library)


def byte_of_letter() -> dict[str, int]:
    """Byte-level BPE writes every byte as one printable letter (Radford et al. 2019, GPT-2): letter -> byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}
