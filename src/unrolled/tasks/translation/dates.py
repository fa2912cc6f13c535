"""Dates as people write them in thirty-two languages and regions, by Babel, each with what it is in ISO 8601.

A line names its language first: what 03/04/05 means depends on it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unrolled.errors import DataError

LOCALES = [
    *("bg_BG", "cs_CZ", "da_DK", "de_DE", "el_GR", "en_GB", "en_US", "es_ES", "et_EE", "fi_FI", "fr_FR", "he_IL", "hi_IN"),
    *("hr_HR", "hu_HU", "id_ID", "it_IT", "ja_JP", "ko_KR", "lt_LT", "nb_NO", "nl_NL", "pl_PL", "pt_BR", "ro_RO", "ru_RU"),
    *("sv_SE", "sw_KE", "tr_TR", "uk_UA", "vi_VN", "zh_CN"),
]
FORMATS = ("short", "medium", "long", "full")
SKELETONS = ("yMd", "yMMMd", "yMEd", "yMMMEd")
"""Babel's names of further ways to write a date; what a locale lacks is passed over."""
FIRST, DAYS = datetime.date(1950, 1, 1), 36_525
"""A century, so that a year of two digits is clear."""
NOT_INSTALLED = "the demo's dates need the package babel: pip install 'unrolled[translation]'"


def split(chance: np.random.Generator, unseen: int) -> tuple[np.ndarray, np.ndarray]:
    """(days to learn from, days that are never seen in any language), as numbers of days after `FIRST`."""
    order = chance.permutation(DAYS)
    return order[unseen:], order[:unseen]


def ways(locale: str) -> list[str]:
    """The patterns by which a date is written with day, month and year in a locale.

    Raises:
        DataError: Babel is not installed.
    """
    try:
        from babel import Locale
    except ImportError:
        raise DataError(NOT_INSTALLED) from None
    known = Locale.parse(locale)
    patterns = [known.date_formats[name].pattern for name in FORMATS]
    patterns += [known.datetime_skeletons[name].pattern for name in SKELETONS if name in known.datetime_skeletons]
    return [pattern for pattern in dict.fromkeys(patterns) if all(letter in pattern.lower() for letter in "dmy")]


def write(path: Path, days: Sequence[int], chance: np.random.Generator) -> list[tuple[str, str]]:
    """A table of one date a line, each in a language and a way drawn at random, some in lower case; and what is in it."""
    from babel.dates import format_date

    patterns = {locale: ways(locale) for locale in LOCALES}
    pairs: list[tuple[str, str]] = []
    for day in days:
        date = FIRST + datetime.timedelta(days=int(day))
        locale = LOCALES[chance.integers(len(LOCALES))]
        text = format_date(date, patterns[locale][chance.integers(len(patterns[locale]))], locale=locale)
        text = text.lower() if chance.random() < 0.2 else text
        pairs.append((f"{locale}: {' '.join(text.split())}", date.isoformat()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return pairs
