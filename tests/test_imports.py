"""Imports run down only: cli -> tasks, training, inspection -> layers, bptt, data ... -> cells, kernels -> torch."""

import ast
from pathlib import Path

import pytest

import unrolled

ROOT = Path(unrolled.__file__).parent
LEVEL = {
    "errors": 0, "config": 1, "files": 1, "flags": 1, "printing": 1, "task": 2,
    "cells": 2, "options": 2, "kernels": 2, "memory": 2, "streaming": 2, "recurrence": 2,
    "layers": 3, "bptt": 3, "attention": 3, "losses": 3, "metrics": 3, "decoding": 3, "encoders": 3, "data": 3,
    "strokes": 2, "crf": 3, "label_metrics": 3, "beam_search": 3, "dropout": 3, "ensemble": 3, "cell_layers": 3, "decoder": 4,
    "checkpoint": 4, "engine": 4, "optimizer": 4, "progress": 4, "training_log": 5, "training_state": 5,
    "gaussian_windows": 3, "conversion": 4, "classroom": 3, "export": 4, "inspection": 5, "training": 6,
    "tasks": 7,
    "estimators": 8, "inspect_commands": 8, "cli": 9, "web": 8, "__main__": 10, "__init__": 9,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room(module: str) -> str:
    """`unrolled.data.sources` -> `data`."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = ("unrolled", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path, at_import: bool = False) -> list[str]:
    """Our modules that a file imports, wherever in it, or only when it is itself imported."""
    here, names = module_of(path), []
    package = here.split(".") if path.stem == "__init__" else here.split(".")[:-1]

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                names.append(f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return [name for name in names if name.split(".")[0] == "unrolled"]


def test_relative_imports_are_seen() -> None:
    assert "unrolled.kernels.definition" in imported(ROOT / "kernels" / "operators.py")
    assert "unrolled.streaming.streamer" in imported(ROOT / "streaming" / "__init__.py")


def test_no_imports_run_in_a_circle() -> None:
    edges = {name: {to for to in imported(path, at_import=True) if to in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for to in edges[name]:
                walk(to, (*way, name))
            done.add(name)

    for name in edges:
        walk(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down_only(path: Path) -> None:
    relative = path.relative_to(ROOT).with_suffix("")
    here = relative.parts[0]
    if here == "__init__":
        return
    for name in imported(path):
        there = room(name)
        if there == "__init__" or there.startswith("_"):
            continue
        assert there in LEVEL, f"{name}: give this new module its level in tests/test_imports.py"
        assert there == here or LEVEL[there] <= LEVEL[here], f"{here} must not import {there}"
        if here == there == "tasks" and relative.parts[1] != "__init__":
            assert name.split(".")[2:3] == [relative.parts[1]] or name == "unrolled.tasks", "tasks never import each other"


def test_only_the_engine_imports_the_distributed_engine() -> None:
    users = [path.name for path in FILES if "accelerate" in path.read_text() and "import Accelerator" in path.read_text()]
    assert users == ["engine.py"]


def test_there_is_no_room_for_odds_and_ends() -> None:
    assert not {path.stem for path in FILES} & {"utils", "common", "helpers", "base", "misc"}
