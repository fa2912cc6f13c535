"""Byte-pair encoding by Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def from_json(content: Any) -> Any:
    """A Hugging Face tokenizer from its parsed JSON, without what would add to a text's tokens or take from them.

    Special tokens keep their ids, but text that reads like one is text; padding and truncation are not ours to do.
    """
    from tokenizers import Tokenizer as Library

    ours = {"added_tokens": [], "padding": None, "truncation": None, "post_processor": None}
    return Library.from_str(json.dumps({**content, **ours}))


def without_special_text(library: Any) -> Any:
    """The same tokenizer, to which text that reads like a special token is text."""
    return from_json(json.loads(library.to_str()))


def learn(texts: Iterable[str], size: int, specials: Sequence[str], *, add_prefix_space: bool) -> Any:
    """Byte-level byte-pair encoding (Sennrich, Haddow and Birch 2016; Radford et al. 2019): `size` tokens, `specials` first."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)  # type: ignore[assignment]
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
