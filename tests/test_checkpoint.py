"""What is on disk is whole, or is said not to be."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unrolled import checkpoint, files, tasks
from unrolled.errors import RunError


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"could not write 3 bytes, the disk is full.*kept"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("begun", "advice"), [(False, "begin again"), (True, "go on with --resume")])
def test_a_full_disk_sends_to_resume_only_where_there_is_something_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, advice: str
) -> None:
    if begun:
        checkpoint.save_tensors(tmp_path / checkpoint.TRAINING, {"w": torch.zeros(2)}, {})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=rf"the disk is full.*Make room, and {advice}\.$"):
        checkpoint.save_tensors(tmp_path / checkpoint.TRAINING, {"w": torch.zeros(2)}, {})


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is made durable and what is renamed, by name, in order."""
    events: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        events.append(("sync", "temporary" if name.startswith(".unrolled-") else name))
        sync(descriptor)

    def note_replace(old: Path, new: Path) -> None:
        events.append(("rename", Path(new).name))
        replace(old, new)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_replace)
    return events


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name what is synced")
def test_content_is_durable_before_its_name_and_its_name_before_anything_else(tmp_path: Path, on_disk) -> None:
    """Or a power cut could leave the new name with no content, or the old name after a report of success."""
    files.write_atomically(tmp_path / "file", b"new")
    assert on_disk == [("sync", "temporary"), ("rename", "file"), ("sync", tmp_path.name)]
    on_disk.clear()
    with files.new_folder(tmp_path / "run") as folder:
        (folder / "whole").write_text("x")
    assert on_disk == [("sync", "whole"), ("rename", "run"), ("sync", tmp_path.name)]


@pytest.fixture
def leftovers(tmp_path: Path) -> tuple[Path, Path]:
    """A file and a folder with something in it, as processes that were killed leave them."""
    code = (
        "import os, signal, sys, pathlib; from unrolled import files\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with files.new_folder(folder / 'run') as unfinished:\n"
        "    (unfinished / 'half').write_text('x')\n"
        "    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    files.write_atomically(folder / 'file', b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    file, folder = sorted(tmp_path.iterdir(), key=Path.is_dir)
    assert (folder / "half").exists()
    return file, folder


def test_what_a_kill_left_is_removed_by_the_next_of_any_name(tmp_path: Path, leftovers: tuple[Path, Path]) -> None:
    with files.new_folder(tmp_path / "other"):
        assert not any(path.exists() for path in leftovers)


def test_what_a_killed_export_left_is_removed_by_the_next(command, trained: Path, tmp_path: Path, leftovers) -> None:
    pytest.importorskip("onnx")
    assert command("export", trained, "--output", tmp_path / "model.onnx")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_not_provably_ours_or_still_in_use_stays(tmp_path: Path, leftovers: tuple[Path, Path]) -> None:
    file, _ = leftovers
    theirs = [".run.partial-1", ".run.partial-backup", ".file.partial", ".unrolled-backup", f"{file.name}x"]
    theirs.append(file.name[:-1] + ("0" if file.name[-1] != "0" else "1"))
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    with files.new_folder(tmp_path / "first") as unfinished, files.new_folder(tmp_path / "*"):
        assert unfinished.exists()
        os.symlink(elsewhere, file)  # a link under a name of ours
        files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "first", "*", "elsewhere", file.name])
    assert all((tmp_path / name / "precious").exists() for name in [*theirs, "elsewhere"])


def test_a_run_folder_is_trained_by_one_process_at_a_time(run: Path, command) -> None:
    with files.locked(run):
        code, out, err = command("train", "language-model", "--resume", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{run}: already being trained by another process." in err
    assert command("train", "language-model", "--resume", run, "--quiet") == (0, "", "")


def test_a_link_in_place_of_the_lock_is_refused(run: Path, tmp_path: Path) -> None:
    """The lock is opened for writing: what a link in somebody's folder points at would be emptied."""
    (tmp_path / "precious").write_text("x")
    (run / files.LOCK).unlink(missing_ok=True)
    (run / files.LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="lock: expected a file, got a link"):
        tasks.resume(run)
    assert (tmp_path / "precious").read_text() == "x"


def test_the_folder_one_is_in_is_no_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(RunError, match="expected the name of a new folder, got the one you are in"),
        files.new_folder(Path(".")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class StopError(Exception): ...

    with pytest.raises(StopError), files.new_folder(tmp_path / "run") as folder:  # noqa: PT012
        (folder / "half").write_text("x")
        raise StopError
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(tmp_path / "runs" / "new") as folder:
        (folder / "whole").write_text("x")
    assert [p.name for p in (tmp_path / "runs" / "new").iterdir()] == ["whole"]
    with pytest.raises(RunError, match="already there and not empty"), files.new_folder(tmp_path / "runs" / "new"):
        pass


def test_tied_weights_are_written_once_and_come_back_tied(tmp_path: Path) -> None:
    def make() -> nn.Module:
        model = nn.ModuleDict({"encoder": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5, bias=False)})
        model["decoder"].weight = model["encoder"].weight
        return model

    first = make()
    checkpoint.save_model(tmp_path, first, step=1)
    assert list(checkpoint.read_tensors(tmp_path / checkpoint.MODEL)[0]) == ["encoder.weight"]
    second = checkpoint.load_model(tmp_path, make)
    assert torch.equal(second["decoder"].weight, first["encoder"].weight)
    assert second["decoder"].weight is second["encoder"].weight


def test_a_missing_run_names_the_nearest(run: Path) -> None:
    with pytest.raises(RunError, match=r"runn: no such run folder\. Did you mean '.*run'\?"):
        tasks.load(run.with_name("runn"))


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a run folder, it has no config\.json"):
        tasks.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_truncated_file_is_named(run: Path, name: str, keep: float) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(RunError, match=rf"{name}: .*(damaged|truncated)"):
        tasks.load(run)


def test_a_truncated_training_state_is_named(run: Path) -> None:
    path = run / checkpoint.TRAINING
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"training\.safetensors: damaged"):
        tasks.resume(run)


def test_a_newer_format_is_refused(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(RunError, match=r"written in format 99, this version of unrolled reads up to 1\. Upgrade"):
        tasks.load(run)


def test_tensors_of_other_shapes_are_refused(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["hidden_size"] = 17
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"expected '.*' of shape \(.*17.*\) \(from config.json\), got \(.*16.*\)"):
        tasks.load(run)


def test_missing_and_unexpected_tensors_are_named(run: Path) -> None:
    tensors, _ = checkpoint.read_tensors(run / checkpoint.MODEL)
    tensors["stranger"] = tensors.pop("decoder.bias")
    checkpoint.save_tensors(run / checkpoint.MODEL, tensors, {})
    with pytest.raises(RunError, match=r"lacks tensor 'decoder\.bias'"):
        tasks.load(run)


def test_another_tasks_run_is_refused(run: Path) -> None:
    with pytest.raises(RunError, match="expected a run of captioning, got one of language-model"):
        checkpoint.open_config(run, "captioning", tasks.config_class("language-model"))


def test_an_unfinished_last_report_is_passed_over(run: Path) -> None:
    whole = checkpoint.read_metrics(run)
    with open(run / checkpoint.METRICS, "a") as file:
        file.write('{"step": 61, "lo')
    assert checkpoint.read_metrics(run) == whole
    checkpoint.truncate_metrics(run, 30)
    assert max(line["step"] for line in checkpoint.read_metrics(run)) == 30


def change(run: Path, edit) -> None:
    """Rewrite a training state by `edit(tensors, facts)`."""
    tensors, facts = checkpoint.read_tensors(run / checkpoint.TRAINING)
    edit(tensors, facts)
    checkpoint.save_tensors(run / checkpoint.TRAINING, tensors, facts)


def rename(tensors: dict, start: str, to=lambda tensor: None) -> None:
    """Put something else in the place of every tensor whose name begins so; nothing where `to` gives None."""
    for name in [name for name in tensors if name.startswith(start)]:
        new = to(tensors.pop(name))
        if new is not None:
            tensors[name] = new


WRONG_STATES = {
    "optimizer of other shapes": (lambda t, f: rename(t, "optimizer.", lambda one: torch.zeros(1)), r"expected 'optimizer\."),
    "longer moments": (lambda t, f: rename(t, "optimizer.0.exp_avg", lambda one: torch.zeros(9999)), "of shape"),
    "moments of another type": (
        lambda t, f: rename(t, "optimizer.0.exp_avg", lambda one: one.double()),
        "of type torch.float32",
    ),
    "no optimizer": (lambda t, f: rename(t, "optimizer."), r"lacks tensor 'optimizer\."),
    "no carried state": (lambda t, f: rename(t, "carry."), r"lacks tensor 'carry\."),
    "carried state of another batch": (lambda t, f: rename(t, "carry.", lambda one: one[:, :1]), "carry.*of shape"),
    "no random state": (lambda t, f: rename(t, "random."), r"lacks tensor 'random\."),
    "short random state": (lambda t, f: rename(t, "random.", lambda one: one[:16]), "random.*of shape"),
    "impossible random state": (lambda t, f: rename(t, "random.", lambda one: one * 0 + 255), "its random state"),
    "weights that are no numbers": (lambda t, f: rename(t, "model.decoder.bias", lambda one: one * torch.nan), "not finite"),
    "something more": (lambda t, f: t.update(stranger=torch.zeros(1)), "unexpected tensor 'stranger'"),
    "no counters": (lambda t, f: f.clear(), "damaged"),
    "counters of another kind": (lambda t, f: f.update(step="5"), "step: Input should be a valid integer"),
    "counters below zero": (lambda t, f: f.update(step=-1), "step: Input should be greater than or equal to 0"),
}


@pytest.mark.parametrize("wrong", WRONG_STATES)
def test_a_training_state_that_does_not_fit_is_refused_before_it_is_used(run: Path, command, wrong: str) -> None:
    """The fused optimizer reads and writes as many numbers as the weights have, whatever its state's shape."""
    edit, match = WRONG_STATES[wrong]
    change(run, edit)
    code, out, err = command("train", "language-model", "--resume", run, "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(rf"^error: .*training\.safetensors: .*{match}", err)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\n",
        b"5\n",
        b'{"part": "train", "loss": 1}\n',
        b'{"step": 1, "seconds": 1, "part": "validation"}\n',
        b"[" * 100_000 + b"\n",
        b'{"step": 1, "part": "train", "loss": NaN}\n',
        b'{"step": 1e400, "part": "train"}\n',
        b"\0" * 99,
    ],
    ids=range(8),
)
def test_damaged_reports_stop_neither_info_nor_resuming(run: Path, command, content: bytes) -> None:
    """They are there for people to see."""
    (run / checkpoint.METRICS).write_bytes(content)
    code, out, err = command("info", run, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["task"] == "language-model"
    assert command("train", "language-model", "--resume", run, "--quiet") == (0, "", "")


def test_weights_that_are_not_finite_are_refused(run: Path, command, real_text: Path) -> None:
    tensors, facts = checkpoint.read_tensors(run / checkpoint.MODEL)
    checkpoint.save_tensors(run / checkpoint.MODEL, {name: one * torch.nan for name, one in tensors.items()}, facts)
    for words in (["sample", run], ["evaluate", run, real_text, "--json"], ["export", run]):
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "has values that are not finite numbers" in err


def test_a_model_is_compared_with_its_file_before_memory_is_taken_for_it(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"] |= {"hidden_size": 2**20, "embedding_size": 2**20}
    (run / "config.json").write_text(json.dumps(content))
    for use in (tasks.load, tasks.resume):
        with pytest.raises(RunError, match=r"of shape \(.*1048576.*\) \(from config\.json\), got \(.*16.*\)"):
            use(run)


def test_a_pipe_in_place_of_a_file_is_refused(run: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (run / name).rename(run / "aside")
        os.mkfifo(run / name)
        with pytest.raises(RunError, match=rf"{name}: expected a file, got a pipe"):
            tasks.load(run)
        os.replace(run / "aside", run / name)
