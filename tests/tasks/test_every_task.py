"""What every task has to do, ours and a package of somebody else's: `outside/parity_task`, found by its entry point.

Each task trains once, on its own demo, with settings that make it short.
"""

import importlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch

from unrolled import checkpoint, task, tasks, training
from unrolled.errors import ConfigError, DataError, RunError
from unrolled.inspection import gradients, watching
from unrolled.tasks import discovery, reopened

OUTSIDE = Path(__file__).parent / "outside"
sys.path.insert(0, str(OUTSIDE))  # as if it were installed
discovery.find.cache_clear()
TASKS = discovery.usable()
SHORT = {"max_steps": 6, "hidden_size": 16, "batch_size": 4, "evaluate_every": 3, "save_every": 2, "sample_every": 5}


@dataclass(frozen=True)
class Shown:
    """A task's demo, run."""

    name: str
    run: Path
    prepared: Path
    """The run folder as it was before the first step."""
    outcome: task.Outcome
    preview: task.Preview


@pytest.fixture(scope="module", params=TASKS)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder, train = tmp_path_factory.mktemp(request.param), training.train

    def copy_and_train(opened: task.Task, run: Path, **how) -> task.Outcome:
        shutil.copytree(run, folder / "prepared")
        return train(opened, run, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", copy_and_train)
        outcome, preview = tasks.demo(request.param, run=folder / "run", **SHORT)
    assert preview is not None
    return Shown(request.param, folder / "run", folder / "prepared", outcome, preview)


def test_the_outside_task_is_among_them() -> None:
    assert {"captioning", "language-model", "parity"} <= set(TASKS)
    assert not any(one.problem for one in discovery.find().values())


def test_a_demo_trains_and_leaves_something_to_look_at(shown: Shown) -> None:
    assert (shown.outcome.reason, shown.outcome.counters.step) == ("finished", SHORT["max_steps"])
    assert shown.preview.text
    assert (shown.run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_demo_says_to_try_next_can_be_typed(shown: Shown, command) -> None:
    """Words in capitals stand for what the reader has; the rest works as it is."""
    complete = [one for one in shown.preview.commands if not re.search(r"[A-Z]+_[A-Z]+", one)]
    assert any(one.startswith(f"unrolled evaluate {shown.run} ") for one in complete)
    for one in complete:
        code, out, errors = command(*shlex.split(one)[1:])
        assert (code, errors) == (0, ""), one
        assert out


def test_a_stopped_and_resumed_run_ends_with_the_same_weights(shown: Shown, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shown.prepared, run)
    opened = discovery.get(shown.name).module("task").Task
    with pytest.MonkeyPatch.context() as patch:
        batch = opened.batch

        def batch_then_stop(self, step: int) -> dict:
            if step == 3:
                signal.raise_signal(signal.SIGINT)
            return batch(self, step)

        patch.setattr(opened, "batch", batch_then_stop)
        assert tasks.resume(run).reason == "interrupted"
    assert tasks.resume(run).reason == "finished"
    for file in (checkpoint.MODEL, checkpoint.TRAINING):
        whole, _ = checkpoint.read_tensors(shown.run / file)
        resumed, _ = checkpoint.read_tensors(run / file)
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_its_gradients_can_be_watched_and_looked_into(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY", 3)
    shutil.copytree(shown.prepared, tmp_path / "run")
    config = checkpoint.open_config(tmp_path / "run", shown.name, tasks.config_class(shown.name))
    checkpoint.write_config(tmp_path / "run", shown.name, config.model_copy(update={"watch": "gradients"}))
    assert tasks.resume(tmp_path / "run").reason == "finished"
    for file in (checkpoint.MODEL, checkpoint.TRAINING):
        alone, watched = (checkpoint.read_tensors(run / file)[0] for run in (shown.run, tmp_path / "run"))
        assert all(torch.equal(alone[name], watched[name]) for name in alone)
    last = [line for line in checkpoint.read_metrics(tmp_path / "run") if line["part"] == "train"][-1]
    assert last["gradient_reach"] >= 1
    monkeypatch.setattr(gradients, "_LONGEST_JACOBIAN", 2)
    found, _ = reopened.gradients(shown.run)
    assert {f"gradient_reach/{flow.name}" for flow in found.flows} <= set(last)
    unseen = next(shlex.split(one)[3:] for one in shown.preview.commands if one.startswith(f"unrolled evaluate {shown.run} "))
    if hasattr(tasks.task_module(shown.name).Task, "on_other_data"):
        other, _ = reopened.gradients(shown.run, unseen)
        assert [flow.name for flow in other.flows] == [flow.name for flow in found.flows]
        assert [flow.h for flow in other.flows] != [flow.h for flow in found.flows]
    else:
        with pytest.raises(DataError, match="is looked into on the data that it was trained on"):
            reopened.gradients(shown.run, unseen)


def test_other_data_that_are_not_there_are_named(shown: Shown, command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing"):
        code, out, errors = command("inspect", "gradients", shown.run, path)
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert str(path) in errors


def test_a_trained_run_is_what_the_commands_ask_for(shown: Shown) -> None:
    run = tasks.load(shown.run, task=shown.name)
    task.require(run, task.Run, shown.name)
    with pytest.raises(RunError, match=f"expected a run of another-task, got one of {shown.name}"):
        tasks.load(shown.run, task="another-task")


def test_only_the_settings_that_a_task_names_can_be_set_at_evaluation(shown: Shown) -> None:
    config = tasks.load(shown.run).config
    for name in type(config).model_fields:
        if name in config.evaluation_settings:
            assert tasks.load(shown.run, **{name: getattr(config, name)}).config == config
        else:
            with pytest.raises(ConfigError, match=f"^{name}: cannot be changed"):
                tasks.load(shown.run, **{name: getattr(config, name)})


def test_it_is_exported_or_says_why_not(shown: Shown, command, tmp_path: Path) -> None:
    code, out, errors = command("export", shown.run, "--output", tmp_path / "model.onnx")
    if code == 0:
        assert out.splitlines()
        assert all(Path(line).is_file() and Path(line).parent == tmp_path for line in out.splitlines())
    else:
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert errors.startswith(f"error: {shown.run}: ")


def test_its_steps_are_drawn_or_it_says_why_not(shown: Shown, command, tmp_path: Path) -> None:
    code, out, errors = command("inspect", "steps", shown.run, "--show", tmp_path / "new" / "pictures")
    if code == 0:
        drawn = [Path(line) for line in out.splitlines()]
        assert drawn
        assert sorted(drawn) == sorted((tmp_path / "new" / "pictures").iterdir())
        begins = {".png": b"\x89PNG", ".gif": b"GIF8", ".html": b"<!DOCTYPE html>"}
        assert all(path.read_bytes().startswith(begins[path.suffix]) for path in drawn)
        (tmp_path / "file").write_text("in the way")
        code, _, errors = command("inspect", "steps", shown.run, "--show", tmp_path / "file" / "pictures")
    assert (code, errors.count("\n")) == (2, 1)
    assert errors.startswith("error: ")


def test_commands_of_other_tasks_refuse_its_run_in_one_line(shown: Shown, command) -> None:
    for name in TASKS:
        for verb, one in discovery.get(name).commands().items():
            if name == shown.name:
                continue
            needed = [each.name for each in one.params if isinstance(each, click.Argument) and each.required]
            others = ["x"] * (len(needed) - ("run" in needed))
            words = [shown.run, *others] if "run" in needed else [*others, "--run", shown.run]
            code, out, errors = command(verb, *words)
            assert (code, out, errors.count("\n")) == (2, "", 1)
            assert f"{shown.run}: expected a run of {name}, got one of {shown.name}. What that can do: " in errors


def test_help_of_every_task_comes_without_torch() -> None:
    verbs = [[verb, "--help"] for name in TASKS for verb in discovery.get(name).commands()]
    asked = [["--help"], ["train", "--help"], ["demo"], *([["train", name, "--help"] for name in TASKS]), *verbs]
    code = (
        "import sys, unrolled.cli\n"
        f"for words in {asked!r}:\n"
        "    sys.argv = ['unrolled', *words]\n"
        "    try:\n        unrolled.cli.main()\n"
        "    except SystemExit as stop:\n        assert not stop.code, words\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules), 'loaded too early'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(OUTSIDE)!r})\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in TASKS:
        one = discovery.get(name)
        assert one.summary.endswith(".")
        assert " ".join(one.summary.split()[:3]) in done.stdout
        assert one.demo_summary is not None
        assert one.demo_summary in done.stdout


def test_every_setting_has_a_text(shown: Shown) -> None:
    fields = importlib.import_module(discovery.get(shown.name).package + ".config").Config.model_fields
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


def test_a_file_that_is_not_there_is_named_by_the_command(shown: Shown, command) -> None:
    code, out, errors = command("evaluate", shown.run, "not-there.txt")
    assert (code, out) == (2, "")
    assert "not-there.txt" in errors
    assert "fault in unrolled" not in errors
