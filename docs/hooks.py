"""Tables of settings and options, made from the program itself when the site is built, so that they cannot drift; and formulas.

A line `{{ settings: language-model }}` becomes the fields of that task's config, `{{ options: sample }}` the options of that
command. Both raise for a name that does not exist, which fails the build. Formulas become MathML, which browsers draw by
themselves: no script and nothing from a network.
"""

from __future__ import annotations

import html
import re
from typing import Any

import click
from latex2mathml.converter import convert

from unrolled.cli import cli
from unrolled.config import TrainingConfig
from unrolled.tasks import config_class

KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "array": "texts"}
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
ENDLESS = 2**53
"""A bound that nobody meets is not shown."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for every page before it is rendered."""
    tables = {"settings": settings, "options": options}
    return re.sub(r"^\{\{ (\w+): ([\w -]+) \}\}$", lambda found: tables[found[1]](found[2]), markdown, flags=re.M)


def on_page_content(content: str, **_: Any) -> str:
    """mkdocs calls this for every page when it is HTML; `pymdownx.arithmatex` has marked the formulas."""
    marked = r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>'
    kind = {"span": "inline", "div": "block"}
    return re.sub(marked, lambda found: convert(html.unescape(found[2]), display=kind[found[1]]), content, flags=re.S)


def settings(task: str) -> str:
    """The settings of a task, first its own, then those that every task has."""
    config = config_class(task)
    fields = config.model_json_schema()["properties"]
    rows = {"Data and model": [], "Training": []}
    for name, field in fields.items():
        shared = name in TrainingConfig.model_fields and name != "data"
        default = "" if field.get("default") in (None, []) else f"`{str(field['default']).lower()}`"
        rows["Training" if shared else "Data and model"].append([f"`{name}`", _values(field), default, field["description"]])
    header = ["Setting", "Values", "Default", "What it does"]
    return "\n\n".join(f"**{title}**\n\n{_table(header, group)}" for title, group in rows.items())


def options(path: str) -> str:
    """The arguments and options of a command such as `sample`."""
    command: click.Command = cli
    for word in path.split():
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            raise KeyError(f"unrolled has no command {path!r}")
        command = found
    rows = []
    for parameter in command.params:
        facts = parameter.to_info_dict()
        name = facts["name"].upper() if facts["param_type_name"] == "argument" else facts["opts"][0]
        kind = "" if facts.get("is_flag") else _range(facts["type"])
        default = facts.get("default")
        shown = f"`{default}`" if isinstance(default, (int, float)) and not isinstance(default, bool) else ""
        if facts["param_type_name"] != "argument":
            rows.append([f"`{name}`", kind, shown, facts["help"] or ""])
    return _table(["Option", "Values", "Default", "What it does"], rows)


def _values(schema: dict[str, Any]) -> str:
    """What a field accepts, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_values(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    bounds = [f"{word} {_number(schema[key])}" for key, word in BOUNDS.items() if schema.get(key, ENDLESS) < ENDLESS]
    return " ".join([KINDS[schema["type"]], *bounds])


def _range(kind: dict[str, Any]) -> str:
    words = {"integer": "whole number", "float": "number"}.get(kind["name"].removesuffix(" range"), "text")
    low = [] if kind.get("min") is None else [f"{'above' if kind['min_open'] else 'at least'} {_number(kind['min'])}"]
    high = (
        []
        if (kind.get("max") or ENDLESS) >= ENDLESS
        else [f"{'below' if kind['max_open'] else 'at most'} {_number(kind['max'])}"]
    )
    return " ".join([words, *low, *high])


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in line) + " |" for line in lines)
