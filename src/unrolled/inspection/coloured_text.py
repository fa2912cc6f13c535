"""A text whose characters or words have labels, coloured by them: one HTML file that needs no other, or a PNG."""

from __future__ import annotations

import html
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from unrolled import files
from unrolled.inspection.label_styles import Style, styles

_COLUMNS, _LINES = 110, 120
"""Of the PNG: the size of a large window. What does not fit is counted below."""
_PIECES = 1_000_000
"""Of the HTML: what a browser still shows."""
_SIZE, _CELL, _LINE = 16, 10, 24  # pixels: the letters, the width of one, and a line
_UNDER = ("none", "underline solid", "underline dotted", "underline double")

Piece = tuple[str, str | None, str | None]
"""A text, its label (None: not labelled, such as the space between two words), and its true label where that is another."""


def draw(
    path: str | os.PathLike[str],
    pieces: Sequence[str],
    labels: Sequence[str | None],
    truth: Sequence[str | None] | None = None,
    *,
    names: Sequence[str] = (),
    looks: dict[str, Style] | None = None,
    title: str = "Labels",
) -> Path:
    """Write the coloured text, with a legend, as HTML or PNG by the path's ending; return the path.

    All white space is kept. With a truth, what is wrong stands in a frame, and in HTML both labels are named where the mouse
    points. HTML follows the reader's light or dark mode, and each line runs in the direction of its script; a PNG is light,
    runs from left to right whatever the script, and shows the beginning of a long text.

    Args:
        path: where to, ending in .html or .png; missing folders above it are made.
        pieces: characters, or words and what stands between them.
        labels: of each piece; None where it has none.
        truth: what the labels should be.
        names: the labels in the order by which they get their colours; by how often they come when left out.
        looks: of every label, in the order of the legend; the usual ones when left out.
        title: what stands above it.

    Raises:
        ValueError: another ending, or not one label for each piece.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(folder + "/code.html", "x = 1", ["NAME", None, "OP", None, "NUMBER"]).name
    'code.html'
    """
    path = Path(path)
    if path.suffix not in (".html", ".png"):
        raise ValueError(f"coloured_text.draw expected a path that ends in .html or .png, got {path.name!r}.")
    if len(labels) != len(pieces) or (truth is not None and len(truth) != len(pieces)):
        counts = f"{len(labels)}" if truth is None else f"{len(labels)} and {len(truth)}"
        raise ValueError(f"coloured_text.draw expected one label for each of {len(pieces)} pieces, got {counts}.")
    counts = Counter(label for label in labels if label is not None)
    looks = looks or styles([*names, *(label for label, _ in counts.most_common())])
    shown = [
        (piece, label, true if true != label else None)
        for piece, label, true in zip(pieces, labels, truth if truth is not None else labels, strict=True)
    ]
    content = _html(shown, looks, counts, title) if path.suffix == ".html" else _png(shown, looks, counts, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content)
    return path


def _html(pieces: Sequence[Piece], looks: dict[str, Style], counts: Counter[str], title: str) -> bytes:
    place = {label: n for n, label in enumerate(looks)}
    rules = [
        f".l{place[label]}{{background:{look.colour};color:{look.ink};text-decoration:{_UNDER[look.mark]}}}"
        for label, look in looks.items()
    ]
    legend = " ".join(
        f'<span class="entry"><span class="l{place[label]}">&nbsp;{_escaped(label)}&nbsp;</span> {counts[label]:,}</span>'
        for label in looks
        if counts[label]
    )
    spans = []
    for (label, true), run in groupby(pieces[:_PIECES], key=lambda piece: piece[1:]):
        text = _escaped("".join(piece for piece, *_ in run))
        if label is None:
            spans.append(text)
        elif true is None:
            spans.append(f'<span class="l{place[label]}" title="{_escaped(label)}">{text}</span>')
        else:
            both = f"{_escaped(label)}, true: {_escaped(true)}"
            spans.append(f'<span class="l{place[label]} wrong" title="{both}">{text}</span>')
    wrong = sum(true is not None for *_, true in pieces)
    note = f' <span class="entry"><span class="wrong">&nbsp;wrong&nbsp;</span> {wrong:,}</span>' if wrong else ""
    more = f"<p>… and {len(pieces) - _PIECES:,} more</p>" if len(pieces) > _PIECES else ""
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{_escaped(title)}</title><style>\n"
        ":root{color-scheme:light dark}\n"
        "body{background:#fff;color:#000;font-family:sans-serif;margin:1em}\n"
        "p{line-height:1.8}\n"
        ".entry{display:inline-block;overflow-wrap:anywhere;margin-inline-end:.6em}\n"
        "pre{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;line-height:1.7;font-size:1rem;tab-size:4}\n"
        ".wrong{outline:2px solid;outline-offset:1px}\n" + "\n".join(rules) + "\n"
        "pre .wrong{outline-color:#000}\n"
        "@media (prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre .wrong{outline-color:#fff}}\n"
        "</style></head><body>\n"
        f"<p><b>{_escaped(title)}</b></p>\n<p>{legend}{note}</p>\n<pre>\n{''.join(spans)}</pre>{more}\n</body></html>\n"
    ).encode("utf-8", "replace")


def _escaped(text: str) -> str:
    """For HTML, in which a carriage return would become a line feed and a control character is an error."""
    kept = "".join(c if c in "\t\n\r" or unicodedata.category(c) != "Cc" else chr(0x2400 + ord(c) % 0x80) for c in text)
    return html.escape(kept).replace("\r", "&#13;")


def _png(pieces: Sequence[Piece], looks: dict[str, Style], counts: Counter[str], title: str) -> bytes:
    from matplotlib import font_manager  # has a font of its own, the same on every machine
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), _SIZE)
    wrong = sum(true is not None for *_, true in pieces)
    there = [label for label in looks if counts[label]]
    entries = [[(f" {_printable(label)} ", label, None), (f" {counts[label]:,}   ", None, None)] for label in there]
    entries += [[(" wrong ", None, "wrong"), (f" {wrong:,}", None, None)]] * bool(wrong)
    text = _wrapped(pieces)
    lines = [*_wrapped([(title, None, None)]), *_legend(entries), [], *text[:_LINES]]
    if len(text) > _LINES:
        lines += [[], [(f"… and {len(text) - _LINES:,} more lines", None, None)]]
    columns = max(sum(_width(piece) for piece, *_ in line) for line in lines)
    picture = Image.new("RGB", (2 * _LINE + columns * _CELL, 2 * _LINE + len(lines) * _LINE), "white")
    canvas = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        x, y = _LINE, _LINE + row * _LINE
        for piece, label, true in line:
            right = x + _width(piece) * _CELL
            look = looks[label] if label is not None else None
            if look is not None:
                canvas.rectangle((x, y, right - 1, y + _LINE - 3), fill=look.colour)
                _underline(canvas, look, x, right - 1, y + _LINE - 5)
            if true is not None:
                canvas.rectangle((x - 1, y - 1, right, y + _LINE - 2), outline="black", width=2)
            for character in piece:
                canvas.text((x, y + 1), character, font=font, fill=look.ink if look is not None else "black")
                x += _width(character) * _CELL
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _underline(canvas, look: Style, left: int, right: int, y: int) -> None:
    if look.mark in (1, 3):
        canvas.line((left, y, right, y), fill=look.ink)
    if look.mark == 3:
        canvas.line((left, y - 3, right, y - 3), fill=look.ink)
    if look.mark == 2:
        canvas.point([(x, y + more) for x in range(left, right + 1, 4) for more in (0, 1)], fill=look.ink)


def _legend(entries: list[list[Piece]]) -> list[list[Piece]]:
    """Lines of entries, none of which is broken."""
    lines: list[list[Piece]] = [[]]
    for entry in entries:
        if lines[-1] and sum(_width(text) for text, *_ in lines[-1] + entry) > _COLUMNS:
            lines.append([])
        lines[-1] = lines[-1] + entry
    return lines


def _wrapped(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Lines of the PNG, tabs as spaces; runs that look alike are one piece."""
    lines: list[list[Piece]] = [[]]
    column = 0
    for text, label, true in pieces:
        for part in text:
            if part == "\n":
                lines.append([])
                column = 0
                continue
            part = " " * (4 - column % 4) if part == "\t" else _printable(part)
            width = _width(part)
            if column + width > _COLUMNS and column:
                lines.append([])
                column = 0
            line = lines[-1]
            if line and line[-1][1:] == (label, true):
                line[-1] = (line[-1][0] + part, label, true)
            else:
                line.append((part, label, true))
            column += width
    return lines


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in text)


def _width(text: str) -> int:
    """In cells of a fixed width: none for marks above a letter, two for the characters of Chinese, Japanese and Korean."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
