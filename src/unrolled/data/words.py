"""What a word is, in any script: how text is split into words, and how words are put together again.

The patterns are read alike by the `regex` package and by Hugging Face tokenizers (Oniguruma).
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}" + "\u30fc\uff70"
"""Scripts that are written without spaces: each of their characters is a word."""
_LETTERS = rf"(?:(?![{SPACELESS}])[\p{{L}}\p{{N}}]\p{{M}}*)+"
_JOINERS = r"'’\-" + "\u200c\u200d"
WORD = rf"[{SPACELESS}]\p{{M}}*|{_LETTERS}(?:[{_JOINERS}]{_LETTERS})*"
"""Letters and digits with their combining marks, joined by apostrophes, hyphens or zero-width joiners."""
_WORD = regex.compile(WORD)
_SPACELESS = regex.compile(rf"[{SPACELESS}]\p{{M}}*")


def words(text: str) -> list[str]:
    """The words of a text, without what stands between them.

    >>> words("A man's t-shirt, 2 किताब; 一只狗")
    ['A', "man's", 't-shirt', '2', 'किताब', '一', '只', '狗']
    """
    return _WORD.findall(text)


def is_spaceless(word: str) -> bool:
    """Whether this is a character of a script that is written without spaces."""
    return _SPACELESS.fullmatch(word) is not None


def apart(text: str) -> str:
    """The text with spaces around each character of a script that is written without."""
    return _SPACELESS.sub(r" \g<0> ", text)


def joined(several: Iterable[str]) -> str:
    """Words in a row, with spaces between them where their scripts have any.

    >>> joined(["a", "dog", "一", "只", "狗"])
    'a dog 一只狗'
    """
    text, before = "", True
    for word in several:
        spaceless = is_spaceless(word)
        text += word if not text or (before and spaceless) else f" {word}"
        before = spaceless
    return text
