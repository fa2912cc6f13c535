"""What the documentation shows is run: every Python block, every `unrolled` command, every doctest.

The blocks of a page run from top to bottom, in one namespace and one temporary folder, as a reader would go through them:

- `python`: executed. `print(...)  # -> text` is held to that text. A block with `>>>` is a doctest.
- `bash`, `console`: lines whose first word is in RUN_HERE are run, others (make, git, pip) passed over. In a `console` block a
  command begins with `$ `; if `error: ...` stands below it, it has to fail with exit code 2 and these very words.
- `toml` with a title: a file of that name.

Training is kept SMALL, whatever the page says: `train_small` is the only thing changed.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from unrolled import tasks

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in [*ROOT.glob("README.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = [path.relative_to(ROOT / "src").with_suffix("") for path in ROOT.glob("src/unrolled/**/*.py")]
MODULES = sorted(".".join(path.parts).removesuffix(".__init__") for path in SOURCES if path.name != "__main__")
SMALL = {"max_steps": 10, "hidden_size": 64}
RUN_HERE = {"unrolled", "cat", "cp", "echo", "mkdir", "printf"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)


def train_small(patch: pytest.MonkeyPatch) -> None:
    """Lower the settings in SMALL, in every `tasks.train`, which `unrolled.train` and the command line call."""
    train = tasks.train

    def small(*arguments, **settings):
        return train(*arguments, **settings | {name: min(most, int(settings.get(name, most))) for name, most in SMALL.items()})

    patch.setattr(tasks, "train", small)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    line: int
    """Number of its first line in the page."""
    text: str


def blocks(page: str) -> list[Block]:
    return [
        Block(
            found["language"],
            next(iter(re.findall(r'title="([^"]+)"', found["info"])), ""),
            page.count("\n", 0, found.start("text")) + 1,
            textwrap.dedent(found["text"]),
        )
        for found in FENCE.finditer(page)
    ]


def run_python(block: Block, page: Path, namespace: dict) -> None:
    if ">>> " in block.text:
        case = doctest.DocTestParser().get_doctest(block.text, namespace, page.name, str(page), block.line - 1)
        runner, report = doctest.DocTestRunner(verbose=False), io.StringIO()
        runner.run(case, out=report.write, clear_globs=False)
        namespace |= case.globs
        assert not runner.failures, report.getvalue()
        return
    code = "\n" * (block.line - 1) + block.text  # so that errors name the page's own lines
    lines = code.splitlines()
    for statement in ast.parse(code, str(page)).body:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(ast.Module([statement], []), str(page), "exec"), namespace)
        _, arrow, shown = lines[(statement.end_lineno or 0) - 1].partition("  # -> ")
        if arrow:
            where = f"{page.name}:{statement.lineno}"
            assert printed.getvalue().rstrip("\n") == shown, f"{where} prints {printed.getvalue()!r}, the page says {shown!r}"


def commands(block: Block) -> list[tuple[int, str, str]]:
    """(line, command, the error that has to follow) of every command that is run here."""
    found: list[tuple[int, str, str]] = []
    rows = iter(enumerate(block.text.splitlines(), block.line))
    for line, row in rows:
        if block.language == "console" and not row.startswith("$ "):
            if found and (row.startswith("error: ") or found[-1][2]):
                found[-1] = (*found[-1][:2], f"{found[-1][2]}{row}\n")
            continue
        while row.endswith("\\"):  # continued on the next line
            row = row.removesuffix("\\") + next(rows, (0, ""))[1]
        found.append((line, row.removeprefix("$ ").strip(), ""))
    return [one for one in found if one[1] and one[1].split()[0] in RUN_HERE]


def run_command(text: str, command) -> tuple[int, str]:
    """Exit code and stderr: in this process if it is `unrolled` and nothing else, by bash if the line asks for a shell."""
    if text.startswith("unrolled ") and not re.search(r"[|<>;&$`]", text):
        code, _, errors = command(*shlex.split(text, comments=True)[1:])
        return code, errors
    done = subprocess.run(["bash", "-c", f"set -euo pipefail\n{text}"], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.fixture(scope="session")
def readers_text() -> str:
    """Real text with every printable character, so that any prompt can be asked for."""
    return "".join(Path(module.__file__).read_text() for module in (textwrap, string))


@pytest.fixture(scope="session")
def readers_run(readers_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run such as `make demo` leaves."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "text.txt").write_text(readers_text)
    small = {"hidden_size": 16, "batch_size": 4, "k1": 16, "sample_every": 0}
    tasks.train("language-model", [str(folder / "text.txt")], run=folder / "run", **small)
    return folder / "run"


def bring(words: str, text: str, request: pytest.FixtureRequest) -> None:
    """The README speaks of text that is the reader's, and of the run that `make demo` made: put them where it says."""
    made = set(re.findall(r"""\brun[ =]["']?([\w./-]+)""", words))
    for word in re.findall(r"[\w.-]+(?:/[\w.-]+)*/?", words):
        path = Path(word)
        if path.exists() or path.is_absolute() or ".." in path.parts:
            continue
        if path.suffix in (".txt", ".md", ".py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif word.startswith("runs/") and word not in made:
            shutil.copytree(request.getfixturevalue("readers_run"), path)
        elif word.endswith("/"):
            path.mkdir(parents=True)
            (path / "one.txt").write_text(text)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's working folder, with `unrolled` and `python` on the path, and the recipes of the repository."""
    folder, programs = tmp_path / "work", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    if (ROOT / "recipes").is_dir():
        shutil.copytree(ROOT / "recipes", folder / "recipes")
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import test_docs; test_docs.main()"
    (programs / "unrolled").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(start)} "$@"\n')
    (programs / "unrolled").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.chdir(folder)
    train_small(monkeypatch)
    return folder


def main() -> None:
    """`unrolled` as the pages' shell lines find it: the real one, training small."""
    from unrolled.cli import main

    sys.argv[0] = "unrolled"
    train_small(pytest.MonkeyPatch())
    main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_shows(page: Path, reader: Path, command, readers_text: str, request) -> None:
    namespace: dict = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "toml" and block.title:
            Path(block.title).write_text(block.text)
        elif block.language in ("python", "py", "pycon"):
            if page.name == "README.md":
                bring(block.text, readers_text, request)
            run_python(block, page, namespace)
        elif block.language in ("bash", "console", "sh", "shell"):
            for line, text, expected in commands(block):
                if page.name == "README.md":
                    bring(text, readers_text, request)
                code, errors = run_command(text, command)
                assert code == (2 if expected else 0), f"{page.name}:{line}: `{text}` exits with {code}:\n{errors}"
                if expected:
                    assert errors.strip() == expected.strip(), f"{page.name}:{line}: `{text}` says\n{errors}"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unrolled"):
            raise
        pytest.skip(f"{name} needs {error.name}")
    failed, _ = doctest.testmod(module)
    assert failed == 0


@pytest.fixture(scope="module")
def hooks():
    """docs/hooks.py, which is mkdocs's to import."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_settings_has_every_setting_with_its_own_text(hooks) -> None:
    table = hooks.on_page_markdown("{{ settings: language-model }}")
    for name, field in tasks.config_class("language-model").model_fields.items():
        assert f"| `{name}` |" in table
        assert field.description in table
    assert "| `cell` | `rnn`, `lstm`, `gru` | `lstm` |" in table


def test_the_table_of_options_has_what_help_has(hooks) -> None:
    table = hooks.on_page_markdown("{{ options: sample }}")
    assert "| `--temperature` | number at least 0 | `0.8` | Divides the logits: below 1" in table
    with pytest.raises(KeyError, match="no command"):
        hooks.on_page_markdown("{{ options: smaple }}")


class TestThisTest:
    """A page that is wrong has to fail."""

    @pytest.mark.parametrize(
        "page",
        [
            "```python\nassert False\n```",
            "```python\nprint(1 + 1)  # -> 3\n```",
            "```pycon\n>>> 1 + 1\n3\n```",
            "- in a list\n\n    ```python\n    nosuch\n    ```",
            "```bash\nunrolled info nosuch\n```",
            "```bash\n# a comment\nunrolled info \\\n    nosuch  # and one more\n```",
            "```console\n$ unrolled info nosuch\nerror: something else.\n```",
            "```bash\necho text | unrolled train language-model - --run run\n```",
        ],
    )
    def test_a_wrong_block_is_found(self, page: str, reader: Path, command, readers_text: str, request) -> None:
        (reader / "page.md").write_text(page)
        with pytest.raises((AssertionError, NameError)):
            test_a_page_does_what_it_shows(reader / "page.md", reader, command, readers_text, request)

    def test_right_blocks_pass(self, reader: Path, command, readers_text: str, request) -> None:
        (reader / "README.md").write_text(
            "```python\nx = 2\nprint(\n    x\n)  # -> 2\n```\n```\nnot run\n```\n```pycon\n>>> y = x + 1\n>>> y\n3\n```\n"
            "```python\nassert y == 3\n```\n```console\n$ unrolled info nosuch\nerror: nosuch: no such run folder.\n```\n"
            '```bash\nmake demo\npip install nosuch\nunrolled sample runs/demo --prompt "~{Q" --length 3 \\\n  --seed 1\n'
            "unrolled train language-model my-book.txt --run runs/book --hidden-size 8\n```\n"
            '```toml title="a.toml"\ncell = "gru"\n```\n'
            f"```python\nfrom unrolled import tasks\nassert tasks.resume('runs/book').counters.step == {SMALL['max_steps']}\n"
            "assert open('a.toml').read() == 'cell = \"gru\"\\n'\n```\n"
        )
        test_a_page_does_what_it_shows(reader / "README.md", reader, command, readers_text, request)
