"""Tasks of other packages: found by their entry points; one that is broken is named, and breaks nothing."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unrolled.errors import RunError
from unrolled.tasks import discovery

CONFIG = "from unrolled.config import TrainingConfig\nclass Config(TrainingConfig):\n    pass\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a package whose entry point is a task, on this test's path only."""
    monkeypatch.syspath_prepend(tmp_path)

    installed = set()

    def install(name: str, package: str, files: dict[str, str]) -> None:
        installed.add(package)
        facts = tmp_path / f"{package}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[unrolled.tasks]\n{name} = {package}\n")
        if files:
            (tmp_path / package).mkdir()
        for file, text in files.items():
            (tmp_path / package / file).write_text(text)
        importlib.invalidate_caches()
        discovery.find.cache_clear()

    yield install
    for name in list(sys.modules):
        if name.partition(".")[0] in installed:
            del sys.modules[name]
    discovery.find.cache_clear()


def whole(**files: str) -> dict[str, str]:
    parts = {"__init__": '"""Learn to whistle. In tune."""\n', "config": CONFIG, "task": ""} | files
    return {f"{name}.py": text for name, text in parts.items()}


def test_its_line_is_the_first_sentence_of_its_docstring(install, command) -> None:
    install("whistling", "whistler", whole())
    assert discovery.get("whistling").summary == "Learn to whistle."
    code, out, _ = command("train", "--help")
    assert code == 0
    assert "whistling" in out
    assert "Learn to whistle." in out
    assert "--learning-rate" in command("train", "whistling", "--help")[1]


def test_nothing_of_a_task_is_imported_to_list_it(install) -> None:
    install("loud", "loud_package", whole(__init__='"""Learn to shout."""\nraise SystemError\n'))
    assert discovery.get("loud").summary == "Learn to shout."


BROKEN = {
    "no such package": ({}, "there is no package broken_package"),
    "no config": ({"__init__.py": "", "task.py": ""}, "broken_package has no config.py"),
    "does not parse": (whole(__init__="def"), "looking for broken_package failed (SyntaxError: "),
    "config fails": (whole(config="import nosuch"), "importing broken_package.config failed (ModuleNotFoundError: "),
    "commands fail": (whole(commands="1 / 0"), "importing broken_package.commands failed (ZeroDivisionError: division"),
    "no commands in it": (whole(commands="COMMANDS = [print]"), "expected COMMANDS in broken_package.commands to be a list of"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_task_is_named_in_one_line_and_breaks_no_other(install, command, how: str) -> None:
    files, problem = BROKEN[how]
    install("broken", "broken_package", files)
    code, out, _ = command("--help")
    assert code == 0
    assert "sample" in out
    if how != "config fails":  # this is not looked at for that page
        assert "task broken" in out
        assert problem.split()[0] in out
    code, out, _ = command("train", "--help")
    assert code == 0
    assert "language-model" in out
    if "command" not in how:
        code, out, errors = command("train", "broken", "data.txt", "--hidden-size", "3")
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert errors.startswith("error: task broken cannot be used: ")
        assert problem in errors
        assert command("demo")[0] == 0


def test_a_name_of_ours_cannot_be_taken(install, command) -> None:
    install("captioning", "their_captions", whole())
    assert discovery.get("captioning").package == "unrolled.tasks.captioning"
    said = "captioning of their_captions cannot be used: unrolled has a task of that name"
    assert said in " ".join(command("--help")[1].split())


def test_a_name_that_two_packages_register_is_refused_with_both(install) -> None:
    install("song", "first_song", whole())
    install("song", "second_song", whole())
    with pytest.raises(RunError, match=r"(first|second)_song and (first|second)_song both register this name"):
        discovery.get("song")
    assert "song" not in discovery.usable()


def test_a_name_that_cannot_be_typed_is_refused(install) -> None:
    install("My_Task", "my_task", whole())
    with pytest.raises(RunError, match="expected a name of lower-case letters, digits and hyphens"):
        discovery.get("My_Task")


@pytest.mark.parametrize("verb", ["sample", "info"])
def test_a_command_of_a_name_that_is_taken_is_left_out_and_said(install, command, verb: str) -> None:
    commands = f"import click\n@click.command('{verb}')\ndef one():\n    click.echo('theirs')\nCOMMANDS = [one]\n"
    install("theirs", "their_package", whole(commands=commands))
    code, out, _ = command(verb, "--help")
    assert code == 0
    assert "theirs" not in out
    assert f"its command '{verb}' is left out" in " ".join(command("--help")[1].split())


def test_a_command_of_theirs_is_a_command(install, command) -> None:
    commands = "import click\n@click.command()\ndef whistle():\n    click.echo('la')\nCOMMANDS = [whistle]\n"
    install("whistling", "whistler", whole(commands=commands))
    assert command("whistle") == (0, "la\n", "")
    assert "whistle" in command("--help")[1]


def test_a_task_without_a_demo_says_which_have_one(install, command) -> None:
    install("whistling", "whistler", whole())
    code, _, errors = command("demo", "whistling")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: task whistling brings no demo; these do: captioning, ")
    assert {"labelling", "language-model", "translation"} < set(errors.rstrip(".\n").split(", "))
