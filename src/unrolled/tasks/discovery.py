"""Which tasks there are: the folders beside this file, and the packages that others register. Imports no torch.

A package of somebody's own becomes a task by an entry point of the group `unrolled.tasks`, in its pyproject.toml:

    [project.entry-points."unrolled.tasks"]
    rhythm = "their_package.rhythm"

The name is the one on the command line, `unrolled train rhythm`; the value is the package with `config.py`, `task.py` and, if
it has them, `commands.py` and `demo.py`. To list the tasks, a package's docstring is read and nothing but its `config.py` and
`commands.py` imported, so these and the packages above them should import no torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
from collections.abc import Container, Mapping
from pathlib import Path
from types import ModuleType

import click

from unrolled.errors import RunError, nearest

GROUP = "unrolled.tasks"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class TaskPackage:
    """A task by name. Of its modules none is imported before it is asked for.

    Args:
        name: on the command line, such as `language-model`.
        package: the Python package, such as `unrolled.tasks.language_model`.
        problem: why it cannot be used; when left out, what is found wrong without importing it.
    """

    def __init__(self, name: str, package: str, problem: str = "") -> None:
        self.name, self.package, self.problem = name, package, problem
        self.summary = ""
        """The first sentence of the package's docstring: its line in `unrolled train`."""
        self.demo_summary: str | None = None
        """The first sentence of the docstring of its `demo.py`; None if it brings no demo."""
        self.has_commands = False
        if problem:
            return
        try:
            spec = importlib.util.find_spec(package)  # imports the packages above it
            folders = list(spec.submodule_search_locations or []) if spec else []
            if not folders:
                self.problem = f"there is no package {package}"
                return
            folder = Path(folders[0])
            missing = [part for part in ("__init__.py", "config.py", "task.py") if not (folder / part).exists()]
            if missing:
                self.problem = f"{package} has no {' and no '.join(missing)}"
                return
            self.summary = _first_sentence(folder / "__init__.py")
            self.demo_summary = _first_sentence(folder / "demo.py") if (folder / "demo.py").exists() else None
            self.has_commands = (folder / "commands.py").exists()
        except Exception as error:  # somebody else's code may fail with anything
            self.problem = f"looking for {package} failed ({_one_line(error)})"

    def commands(self) -> dict[str, click.Command]:
        """The commands that it brings in `COMMANDS` of its `commands.py`, by name: what only its trained models can do.

        Raises:
            RunError: the module cannot be imported, or `COMMANDS` is not what it has to be.
        """
        if not self.has_commands:
            return {}
        commands = getattr(self.module("commands"), "COMMANDS", None)
        if not isinstance(commands, (list, tuple)) or not all(isinstance(one, click.Command) for one in commands):
            raise RunError(
                f"task {self.name}: expected COMMANDS in {self.package}.commands to be a list of click commands, "
                f"got {commands!r}."
            )
        return {one.name or "": one for one in commands}

    def module(self, part: str) -> ModuleType:
        """One of its modules, imported: `config`, `task`, `commands` or `demo`.

        Raises:
            RunError: the task cannot be used, or the module cannot be imported.
        """
        if self.problem:
            raise RunError(f"task {self.name} cannot be used: {self.problem}.")
        try:
            return importlib.import_module(f"{self.package}.{part}")
        except Exception as error:
            raise RunError(
                f"task {self.name} cannot be used: importing {self.package}.{part} failed ({_one_line(error)})."
            ) from error


@functools.cache
def find() -> Mapping[str, TaskPackage]:
    """Every task by name, in alphabetical order: ours, then those of other packages, those that cannot be used among them.

    A name of ours cannot be taken by another package; a name that two packages register is usable for neither.
    """
    folders = [one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)]) if one.ispkg]
    ours = {name.replace("_", "-"): f"unrolled.tasks.{name}" for name in folders}
    found = {name: TaskPackage(name, ours[name]) for name in sorted(ours)}
    registered: dict[str, list[str]] = {}
    for one in importlib.metadata.entry_points(group=GROUP):
        if one.value not in registered.setdefault(one.name, []):
            registered[one.name].append(one.value)
    for name, packages in sorted(registered.items()):
        problem = ""
        if name in ours:
            name, problem = f"{name} of {packages[0]}", "unrolled has a task of that name; rename the entry point"
        elif len(packages) > 1:
            problem = f"{' and '.join(packages)} both register this name; uninstall one of them"
        elif not _NAME.fullmatch(name):
            problem = "expected a name of lower-case letters, digits and hyphens in the entry point"
        found[name] = TaskPackage(name, packages[0], problem)
    return found


def usable() -> list[str]:
    """The names of the tasks that can be used."""
    return [name for name, task in find().items() if not task.problem]


def get(name: str) -> TaskPackage:
    """The task of this name.

    Raises:
        RunError: there is none, or it cannot be used.
    """
    tasks = find()
    if name not in tasks:
        raise RunError(f"task: expected one of {', '.join(usable())}, got {name!r}.{nearest(name, usable())}")
    if tasks[name].problem:
        raise RunError(f"task {name} cannot be used: {tasks[name].problem}.")
    return tasks[name]


def commands(taken: Container[str]) -> tuple[dict[str, click.Command], list[str]]:
    """The commands that tasks bring, by name, and a line for every task that cannot be used or brings one that is `taken`."""
    found: dict[str, click.Command] = {}
    problems: list[str] = []
    for name, task in find().items():
        try:
            brought = task.commands()
        except RunError as error:
            problems.append(str(error))
            continue
        if task.problem:
            problems.append(f"task {name} cannot be used: {task.problem}.")
        for verb, command in brought.items():
            if verb in taken or verb in found:
                problems.append(f"task {name}: its command {verb!r} is left out; there is another of that name. Rename it.")
            else:
                found[verb] = command
    return found, problems


def _first_sentence(path: Path) -> str:
    """Of a module's docstring, without running the module."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", first, maxsplit=1)[0]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
