"""How docstrings, written to be read in the source, become pages: equations and examples keep their lines.

A paragraph whose lines all begin with `name =` is equations, one that begins with `>>>` an example: both become code blocks. In
the rest the * of a product such as G*H is kept from meaning emphasis.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

PRODUCT = re.compile(r"(`+[^`]*`+)|(?<=\w)\*(?=\w)")
EQUATION = re.compile(r"[a-z]\w*(?:_\{[^}]*\})? += .+")


class Paragraphs(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = "\n\n".join(_shown(text) for text in obj.docstring.value.split("\n\n"))


def _shown(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if lines and lines[0].startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    if lines and all(EQUATION.fullmatch(line) for line in lines):
        return f"```text\n{paragraph}\n```"
    return PRODUCT.sub(lambda found: found[1] or r"\*", paragraph)
