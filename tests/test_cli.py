"""Every command, and every mistake: one line, exit code 2, nothing half-written."""

import io
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same

from unrolled import checkpoint, cli, kernels, tasks
from unrolled.errors import ConfigError


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['unrolled', *sys.argv[1:]]; import unrolled.cli as c\ntry: c.main()\nexcept SystemExit: pass\n"
    )
    code += "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules), 'loaded too early'"
    for arguments in (["--help"], ["train", "--help"], ["train", "language-model", "--help"], ["sample", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Usage: unrolled" in done.stdout


def test_help_shows_every_setting_with_its_default(command) -> None:
    _, out, _ = command("train", "language-model", "--help")
    for name, field in tasks.config_class("language-model").model_fields.items():
        if name != "data":
            assert f"--{name.replace('_', '-')}" in out
            first_words = " ".join((field.description or "").split()[:2])
            assert first_words in out


def test_train_sample_evaluate_info(command, real_text: Path, tmp_path: Path, tiny_flags: list[str]) -> None:
    run = tmp_path / "run"
    code, out, err = command("train", "language-model", real_text, "--run", run, *tiny_flags, "--sample-every", "10")
    assert code == 0, err
    assert out == ""
    for shown in ("validation", "bits/char", "sample after step 10", "a longer sample", str(run), "unrolled sample"):
        assert shown in err
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))

    code, out, err = command("sample", run, "--prompt", "def ", "--length", "50", "--seed", "3")
    assert (code, err) == (0, "")
    assert out.startswith("def ")
    assert len(out) == len("def ") + 50 + 1

    code, out, _ = command("evaluate", run, real_text, "--json")
    assert code == 0
    measured = json.loads(out)
    assert measured.keys() == {"loss", "perplexity", "bits_per_character", "tokens", "unknown_tokens", "unknown_share"}
    assert measured["tokens"] == len(real_text.read_text()) - 1

    code, out, _ = command("info", run, "--json")
    facts = json.loads(out)
    assert facts["task"] == "language-model"
    assert facts["steps"] == 30
    assert facts["config"]["hidden_size"] == 16
    code, out, _ = command("info", run)
    assert "parameters" in out


def test_an_exported_run_answers_in_onnxruntime_as_it_does_here(command, trained: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    code, out, err = command("export", trained, "--output", tmp_path / "model.onnx")
    assert (code, err) == (0, "")
    assert Path(out.strip()) == tmp_path / "model.onnx"
    run = tasks.load(trained)
    ids = torch.from_numpy(run.tokenizer.encode("import textwrap"))[None]
    with torch.no_grad():
        expected, _ = run.model(ids)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    zeros = torch.zeros(1, 1, run.config.hidden_size).numpy()
    (logits,) = session.run(["logits"], {"tokens": ids.numpy(), "h_0": zeros, "c_0": zeros})
    assert_same(torch.from_numpy(logits), expected)


def test_the_command_and_the_three_lines_of_python_do_the_same(
    command, real_text: Path, tmp_path: Path, tiny: dict, tiny_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command("train", "language-model", real_text, "--run", tmp_path / "a", "--quiet", *tiny_flags)
    tasks.train("language-model", [str(real_text)], run=tmp_path / "b", **tiny)
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    _, out, _ = command("sample", tmp_path / "a", "--seed", "1", "--length", "40")
    assert out == "".join(tasks.load(tmp_path / "b").sample(seed=1, length=40)) + "\n"


def test_resume_from_the_command_line(command, real_text: Path, tmp_path: Path, tiny_flags: list[str]) -> None:
    command("train", "language-model", real_text, "--run", tmp_path / "run", "--quiet", *tiny_flags)
    code, _, err = command("train", "language-model", "--resume", tmp_path / "run", *tiny_flags)
    assert code == 0, err
    code, _, err = command("train", "language-model", "--resume", tmp_path / "run", "--hidden-size", "99")
    assert (code, err.count("\n")) == (2, 1)
    assert "hidden_size: the run has 16, got 99" in err


def test_demos_are_listed_with_a_line_each(command) -> None:
    code, out, _ = command("demo")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert {"captioning", "language-model"} <= lines.keys()
    assert all(line.endswith(".") for line in lines.values())


def test_a_demo_into_a_folder_that_is_there_is_refused_before_anything_is_made(command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    code, out, errors = command("demo", "captioning", "--run", tmp_path / "run")
    assert (code, out) == (2, "")
    there = f"error: {tmp_path / 'run'}: already there and not empty. Name another --run, or continue it with "
    assert errors == f"{there}unrolled train captioning --resume {tmp_path / 'run'}.\n"
    (tmp_path / "other-data").mkdir()
    (tmp_path / "other-data" / "mine.txt").write_text("mine")
    code, out, errors = command("demo", "captioning", "--run", tmp_path / "other")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert f"{tmp_path / 'other-data'}: already there and not empty." in errors
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.txt", "mine.txt", "other-data", "run"]


def test_a_demo_that_cannot_train_leaves_no_data_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        tasks.demo("captioning", run=tmp_path / "run", batch_size=0)
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_there_is(command) -> None:
    code, out, _ = command("doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["torch"] == torch.__version__
    assert facts["kernels"].startswith("built" if kernels.available() else "not available: ")


def test_without_kernels_the_doctor_says_why_and_what_it_costs(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "available", lambda: False)
    monkeypatch.setattr(kernels, "why_not", lambda: "the library was not built")
    _, out, _ = command("doctor")
    assert "not available: the library was not built" in out
    assert re.search(r"takes \d+\.\d times as long as torch.nn.LSTM.s, and \d+\.\d times with resets", out)
    assert "reinstall" in out


def write_binary(path: Path) -> None:
    path.write_bytes(b"\x7fELF\0\0\1")


MISTAKES = {
    "missing path": (["train", "language-model", "nosuch.txt"], "nosuch.txt: no such file or folder"),
    "no data": (["train", "language-model"], "expected data, got none"),
    "empty text": (["train", "language-model", "empty.txt"], "empty.txt: expected text, got nothing"),
    "short text": (["train", "language-model", "short.txt"], "shorter than one chunk"),
    "folder without text": (["train", "language-model", "binaries"], "a folder without text"),
    "binary file": (["train", "language-model", "binaries/program"], "--unit byte"),
    "invalid UTF-8": (["train", "language-model", "latin1.txt"], "got an invalid byte at offset 3"),
    "unknown task": (["train", "languag-model", "short.txt"], "Did you mean 'language-model'?"),
    "unknown flag": (["train", "language-model", "short.txt", "--hiden-size", "3"], "--hidden-size"),
    "unknown cell": (["train", "language-model", "short.txt", "--cell", "ltsm"], "Did you mean 'lstm'?"),
    "unknown key": (["train", "language-model", "short.txt", "--recipe", "bad.toml"], "Did you mean 'learning_rate'?"),
    "zero size": (["train", "language-model", "short.txt", "--hidden-size", "0"], "--hidden-size: expected greater than 0"),
    "no device": (["train", "language-model", "long.txt", "--device", "warp"], "--device warp: not available on this machine"),
    "missing run": (["sample", "nosuch"], "nosuch: no such run folder"),
    "not a run": (["info", "binaries"], "not a run folder"),
    "zero length": (["sample", "nosuch", "--length", "0"], "--length"),
    "unknown command": (["smaple", "nosuch"], "no command 'smaple'. Did you mean 'sample'?"),
    "task for a command": (["captioning", "short.txt"], "Did you mean 'unrolled train captioning'?"),
    "unknown demo": (["demo", "captoning"], "Did you mean 'captioning'?"),
    "a demo's settings": (["demo", "language-model", "--hidden-size", "3"], "unrolled train language-model DATA..."),
    "a demo's settings first": (["demo", "--hidden-size", "3"], "unrolled train TASK DATA..."),
    "a demo's data": (["demo", "language-model", "short.txt"], "a demo has its own data and settings, got short.txt"),
    "set twice": (["evaluate", "x", "y", "--set", "a-b=1", "--set", "a_b=2"], "--set a_b: expected one value, got 2"),
    "no number": (["sample", "x", "--temperature", "nan"], "'nan' is not a finite number"),
    "no number either": (["sample", "x", "--top-p", "nan"], "'nan' is not a finite number"),
    "huge seed": (["sample", "x", "--seed", "9" * 30], "--seed"),
    "huge beam": (["caption", "x", "y", "--beam", "1000000000"], "--beam"),
    "a device that computes nothing": (["train", "language-model", "long.txt", "--device", "meta"], "--device meta: not"),
    "a model that no machine holds": (
        ["train", "language-model", "long.txt", "--hidden-size", "1000000", "--run", "r", "--quiet"],
        "Make it smaller",
    ),
    "run and resume": (["train", "language-model", "--resume", "x", "--run", "y"], "leave out --run"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(command, tmp_path: Path, monkeypatch, mistake: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "long.txt").write_text("a few words " * 1000)
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "bad.toml").write_text("learnin_rate = 1")
    (tmp_path / "binaries").mkdir()
    write_binary(tmp_path / "binaries" / "program")
    before = sorted(tmp_path.rglob("*"))
    arguments, text = MISTAKES[mistake]
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before and path != tmp_path / "runs"]
    assert left == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(command, tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("text")
    path.chmod(0)
    code, _, err = command("train", "language-model", path)
    assert (code, err) == (2, f"error: {path}: cannot be read (Permission denied).\n")


def test_an_unseen_prompt_is_one_line(command, trained: Path) -> None:
    code, out, err = command("sample", trained, "--prompt", "☃")
    assert code == 2
    assert out == ""
    assert err.startswith("error: the prompt '☃'")


@pytest.fixture(scope="module")
def full_disk() -> Callable[..., tuple[int, str]]:
    """Run `unrolled ...` in a process whose files may not grow beyond so many bytes, as on a full disk: (exit code, stderr).

    The processes start with torch imported already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unrolled.tasks.language_model.task", "unrolled.inspection.loss_curve"])

    def run(most: int, *arguments: str | Path) -> tuple[int, str]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_limited, args=(theirs, most, [*map(str, arguments)]))
        process.start()
        theirs.close()
        answer = ours.recv()
        process.join()
        return answer

    return run


def _limited(answer: Connection, most: int, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv, sys.stderr = ["unrolled", *arguments], io.StringIO()
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    answer.send((code, sys.stderr.getvalue()))


def test_a_full_disk_during_a_save_keeps_the_last_good_checkpoint(real_text: Path, tmp_path: Path, tiny_flags) -> None:
    """A write limit on the process stands in for a disk that fills once the best weights are written."""
    run = tmp_path / "run"
    arguments = ["train", "language-model", str(real_text), "--run", str(run), *tiny_flags, "--hidden-size", "128"]
    code = (
        "import resource; from unrolled import checkpoint, cli; save = checkpoint.save_model\n"
        "checkpoint.save_model = lambda *a: (save(*a), resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000)))\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "training.safetensors: could not write" in done.stderr
    assert "the disk is full" in done.stderr
    assert done.stderr.endswith("Make room, and go on with --resume.\n")
    assert checkpoint.read_tensors(run / checkpoint.TRAINING)[1]["step"] == 0
    assert "Traceback" not in done.stderr
    assert not list(run.glob(".*"))
    assert tasks.load(run)  # the best weights, written before, are whole


def test_a_full_disk_during_a_report_is_one_line_too(full_disk, tmp_path: Path, tiny_flags: list[str]) -> None:
    (tmp_path / "short.txt").write_text("a short text, whose file of tokens still fits; " * 40)
    long = [*tiny_flags, "--hidden-size", "2", "--max-steps", "3000", "--save-every", "3000", "--evaluate-every", "3000"]
    code, errors = full_disk(12_000, "train", "language-model", tmp_path / "short.txt", "--run", tmp_path / "run", *long)
    assert code == 2, errors
    assert "could not write a report, the disk is full" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("method", ["build", "loss"])
def test_a_start_that_fails_leaves_nothing(
    command, monkeypatch: pytest.MonkeyPatch, real_text: Path, tmp_path: Path, tiny_flags: list[str], method: str
) -> None:
    def fail(*arguments) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(f"unrolled.tasks.language_model.task.Task.{method}", fail)
    code, _, err = command("train", "language-model", real_text, "--run", tmp_path / "run", "--quiet", *tiny_flags)
    assert (code, err) == (2, "error: not enough memory. Make the model, the batch or what is asked for smaller.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_before_training_leaves_nothing(full_disk, real_text: Path, tmp_path: Path) -> None:
    code, errors = full_disk(1000, "train", "language-model", real_text, "--run", tmp_path / "run")
    assert code == 2, errors
    assert "the disk is full. Nothing was left behind." in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_standard_output_that_is_full_is_one_line_and_one_that_is_closed_takes_nothing(trained: Path) -> None:
    for words, code, shown in (("> /dev/full", 2, "error: could not write: "), (">&-", 0, "")):
        info = f"{sys.executable} -m unrolled info {trained} {words}"
        done = subprocess.run(["bash", "-c", info], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (code, code // 2)
        assert done.stderr.startswith(shown)


def test_a_finished_run_that_is_resumed_shows_its_figures_again(command, trained: Path) -> None:
    loss = checkpoint.last_evaluation(trained)["loss"]
    code, _, err = command("train", "language-model", "--resume", trained)
    assert code == 0
    assert re.search(rf"^loss +{loss:.4f}$", err, re.MULTILINE)


def test_a_run_that_is_not_there_is_compared_with_the_runs_beside_it(command, trained: Path) -> None:
    (trained.parent / "rum.txt").write_text("no run")
    code, _, err = command("info", trained.parent / "rum")
    assert (code, err) == (2, f"error: {trained.parent / 'rum'}: no such run folder. Did you mean 'run'?\n")
    code, _, err = command("info", trained.parent / "quite-another")
    assert (code, err) == (2, f"error: {trained.parent / 'quite-another'}: no such run folder.\n")


def test_steps_that_end_within_the_warm_up_are_said(command, real_text: Path, tmp_path: Path, tiny_flags: list[str]) -> None:
    flags = [*tiny_flags, "--max-steps", "3", "--warmup-steps", "3"]
    code, _, err = command("train", "language-model", real_text, "--run", tmp_path / "run", *flags)
    assert code == 0
    assert "max_steps (3) is within the warm-up (warmup_steps, 3)" in err


def test_of_several_processes_the_first_says_what_all_of_them_meet(command, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["train", "language-model", "x", "--k1", "0"], ["train", "language-model", "--hiden-size", "3"]):
        for rank, lines in (("0", 1), ("1", 0)):
            monkeypatch.setenv("RANK", rank)
            code, _, err = command(*words)
            assert (code, err.count("\n")) == (2, lines)


def test_a_reader_that_has_seen_enough_is_no_error(trained: Path) -> None:
    sample = f"{sys.executable} -m unrolled sample {trained} --length 3000 | head -c 20"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {sample}"], capture_output=True, text=True)
    assert (done.stderr, len(done.stdout)) == ("", 20)


def test_a_fault_of_ours_is_one_line_and_its_traceback_a_file(command, trained: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(folder: Path) -> dict:
        raise KeyError("nobody thought\nof this")

    monkeypatch.setattr("unrolled.inspection.run_info.describe", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = command("info", trained)
    file = next(tmp_path.iterdir())
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: unexpected KeyError: ")
    assert err.endswith(f"please report it to its maintainers, with the file {file}.\n")
    assert "Traceback" in file.read_text()
    assert f"unrolled info {trained}" in file.read_text()
