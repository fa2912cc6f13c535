"""Imports run down only: cli -> tasks, training, inspection -> layers, bptt, data ... -> cells, kernels -> torch."""

import ast
from pathlib import Path

import pytest

import unrolled

ROOT = Path(unrolled.__file__).parent
LEVEL = {
    "errors": 0, "config": 1, "files": 1, "task": 2,
    "cells": 2, "kernels": 2, "memory": 2, "regularised": 2,
    "layers": 3, "bptt": 3, "attention": 3, "losses": 3, "metrics": 3, "decoding": 3, "encoders": 3, "data": 3,
    "beam_search": 3, "dropout": 3, "ensemble": 3,
    "checkpoint": 4, "engine": 4, "optimizer": 4, "progress": 4, "training_log": 5, "training_state": 5,
    "conversion": 4, "classroom": 3, "export": 4, "inspection": 5, "training": 6,
    "tasks": 7,
    "cli": 8, "web": 8, "__main__": 9, "__init__": 9,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room(module: str) -> str:
    """`unrolled.data.sources` -> `data`."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path) -> list[str]:
    """Our modules that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" if node.module == "unrolled" else node.module for alias in node.names]
    return [name for name in names if name.split(".")[0] == "unrolled"]


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
