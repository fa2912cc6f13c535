import os
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from unrolled import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [*slow, *(item for item in items if item not in slow)]
    if os.environ.get("UNROLLED_SLOW_TESTS") != "1":
        for item in slow:
            item.add_marker(pytest.mark.skip(reason="takes minutes: set UNROLLED_SLOW_TESTS=1"))


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_test_process() -> None:
    """Tests run side by side; tiny sizes gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features of photos do not go into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNROLLED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_text() -> Path:
    """Real text that every machine has: a module of Python's standard library."""
    return Path(sysconfig.get_path("stdlib")) / "textwrap.py"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `unrolled ...` in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["unrolled", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


TINY = {
    "hidden_size": 16,
    "batch_size": 4,
    "k1": 16,
    "max_steps": 30,
    "warmup_steps": 5,
    "evaluate_every": 10,
    "save_every": 10,
    "sample_every": 0,
}
"""Settings that train in a moment."""


@pytest.fixture
def tiny() -> dict:
    return dict(TINY)


@pytest.fixture
def tiny_flags() -> list[str]:
    return [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="session")
def trained(real_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run, shared by tests that only read it."""
    from unrolled import tasks

    folder = tmp_path_factory.mktemp("trained") / "run"
    tasks.train("language-model", [str(real_text)], run=folder, **{**TINY, "max_steps": 150, "learning_rate": 1e-2})
    return folder
