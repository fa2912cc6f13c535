"""Several processes that train one run: they do what one does, stop together, and go on exactly."""

import atexit
import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.launched import launch
from tests.tolerance import assert_same
from torch import nn

from unrolled import checkpoint, files, tasks
from unrolled import engine as engine_module
from unrolled.config import TrainingConfig
from unrolled.engine import Engine
from unrolled.errors import ConfigError, DataError, DivergenceError, RunError
from unrolled.task import Metric, Outcome, Processes, Step
from unrolled.tasks.language_model.task import Task as LanguageModelTask
from unrolled.training import train

SETTINGS = {"hidden_size": 16, "k1": 16, "max_steps": 12, "warmup_steps": 4, "evaluate_every": 6, "save_every": 4}
TEXT = {**SETTINGS, "batch_size": 5, "sample_every": 5}  # three rows for one process and two for the other


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """Everything that training moves, of all processes."""
    return checkpoint.read_tensors(run / checkpoint.TRAINING)[0] | checkpoint.read_tensors(run / checkpoint.MODEL)[0]


def assert_bit_identical(one: Path, other: Path) -> None:
    a, b = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def learn(text: Path, run: Path, settings: dict) -> Outcome:
    return tasks.train("language-model", text, run=run, **settings)


class Weighted:
    """Fit a line to points of which some do not count, so that equal shares of rows are unequal shares of the loss."""

    name, unit, summary = "weighted", "points", "7 points"
    loss_name, selection = "squares", Metric()

    def __init__(self, counted: list[int], spoil_row: int | None = None, interrupt: tuple[int, int] | None = None) -> None:
        self.config = TrainingConfig(max_steps=8, batch_size=len(counted), evaluate_every=4, save_every=2, device="cpu")
        self.counted, self.spoil_row, self.interrupt = torch.tensor(counted), spoil_row, interrupt

    def build(self) -> nn.Module:
        return nn.Linear(2, 1)

    def batch(self, step: int) -> dict:
        x = torch.linspace(-1, 1, 2 * len(self.counted)).view(-1, 2) * (step % 3 + 1)
        if step == 5 and self.spoil_row is not None:
            x[self.spoil_row] = torch.nan
        return {"x": x, "counted": self.counted, "step": step}

    def loss(self, model: nn.Module, batch: dict, carry: dict) -> Step:
        if self.interrupt == (int(os.environ.get("RANK", 0)), batch["step"]):
            signal.raise_signal(signal.SIGINT)
        errors = (model(batch["x"]) - batch["x"].sum(1, keepdim=True) - 1).square().squeeze(1)
        count = int(batch["counted"].sum())
        loss = (errors * batch["counted"]).sum() / count
        carry = {"drawn": torch.rand(1), "steps": carry.get("steps", torch.zeros(1)) + 1}
        return Step(loss, count, carry, {"twice": 2 * loss.item()})

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        return {"loss": float(sum(processes.gather(processes.index + 1)))}

    def show(self, model: nn.Module, seed: int) -> str:
        return ""


def fit(folder: Path, task: Weighted) -> Outcome:
    return train(task, folder)  # type: ignore[arg-type]


def test_two_processes_learn_what_one_learns(real_text: Path, tmp_path: Path) -> None:
    one = learn(real_text, tmp_path / "one", TEXT)
    first, second = launch(learn, real_text, tmp_path / "two", TEXT)
    assert first == second
    for name, value in one.metrics.items():
        assert first.metrics[name] == pytest.approx(value, rel=1e-5)
    expected, actual = (checkpoint.read_tensors(tmp_path / run / checkpoint.MODEL)[0] for run in ("one", "two"))
    for name, tensor in expected.items():
        assert_same(actual[name], tensor)
    rows = [checkpoint.read_metrics(tmp_path / run) for run in ("one", "two")]
    assert [line["step"] for line in rows[0]] == [line["step"] for line in rows[1]]  # reported once
    for ours, theirs in zip(*rows, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)


@pytest.mark.parametrize("counted", [[1, 1, 1, 1, 0, 0, 1], [1] * 7, [1]], ids=["unequal counts", "odd rows", "fewer rows"])
def test_gradients_are_averaged_over_what_was_counted(tmp_path: Path, counted: list[int]) -> None:
    fit(tmp_path / "one", Weighted(counted))
    outcomes = launch(fit, tmp_path / "two", Weighted(counted))
    assert [outcome.metrics["loss"] for outcome in outcomes] == [3, 3]  # both were measured: 1 + 2
    for name, tensor in checkpoint.read_tensors(tmp_path / "one" / checkpoint.MODEL)[0].items():
        assert_same(checkpoint.read_tensors(tmp_path / "two" / checkpoint.MODEL)[0][name], tensor)
    one, two = (checkpoint.read_metrics(tmp_path / run)[-2] for run in ("one", "two"))  # the last step, then its evaluation
    for name in ("loss", "twice", "gradient_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)


def test_each_process_draws_its_own_random_numbers_and_the_first_draws_those_of_one(tmp_path: Path) -> None:
    fit(tmp_path / "one", Weighted([1] * 4))
    launch(fit, tmp_path / "two", Weighted([1] * 4))
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert torch.equal(two["carry.drawn"], one["carry.drawn"])
    assert not torch.equal(two["process.1.carry.drawn"], two["carry.drawn"])
    before = torch.get_rng_state()
    Engine("cpu").seed(3)
    assert torch.equal(torch.get_rng_state(), before)  # one process draws from the seed as it is


def fit_and_look(folder: Path) -> tuple[set[str], tuple[float, bool]]:
    """What this process wrote, and what it decides when its clock and its wish to stop are its own."""
    written, write = set(), files.write_atomically
    files.write_atomically = lambda path, *given, **more: written.add(path.name) or write(path, *given, **more)
    fit(folder, Weighted([1] * 4))
    engine = Engine("cpu")
    return written, engine.agree(7.0 + engine.index, stop=engine.index == 1)


def test_the_first_process_alone_writes_and_its_clock_is_everyones_and_any_may_stop_all(tmp_path: Path) -> None:
    (written, agreed), others = launch(fit_and_look, tmp_path)
    assert {checkpoint.TRAINING, checkpoint.MODEL} <= written
    assert agreed == (7.0, True)
    assert others == (set(), agreed)


def learn_and_die(text: Path, run: Path, settings: dict, rank: int) -> Outcome:
    """One of the processes is killed at a step after the last checkpoint."""
    original = LanguageModelTask.loss

    def loss(self, model, batch, carry):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 11 and int(os.environ["RANK"]) == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, model, batch, carry)

    LanguageModelTask.loss = loss  # type: ignore[method-assign]  # this process is ours alone
    return learn(text, run, settings)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_and_going_on_is_exact(real_text: Path, tmp_path: Path, rank: int) -> None:
    settings = TEXT | {"dropout": 0.3, "num_layers": 2}
    launch(learn, real_text, tmp_path / "whole", settings)
    began = time.monotonic()
    answers = launch(learn_and_die, real_text, tmp_path / "killed", settings, rank)
    assert time.monotonic() - began < 30  # seconds, against the ten minutes of a process that only does not answer
    assert answers[rank] is None
    assert isinstance(answers[1 - rank], RunError)
    assert "another process of this run has ended or does not answer" in str(answers[1 - rank])
    assert checkpoint.read_tensors(tmp_path / "killed" / checkpoint.TRAINING)[1]["step"] == 8
    launch(tasks.resume, tmp_path / "killed")
    assert_bit_identical(tmp_path / "whole", tmp_path / "killed")


def test_going_on_with_another_number_of_processes_is_refused(trained: Path, real_text: Path, tmp_path: Path) -> None:
    launch(learn, real_text, tmp_path / "two", TEXT)
    with pytest.raises(RunError, match=r"two: expected 2 processes, with which it was begun, got 1\. Start as many"):
        tasks.resume(tmp_path / "two")
    for error in launch(tasks.resume, trained):
        assert isinstance(error, RunError)
        assert "expected 1 process, with which it was begun, got 2." in str(error)


def test_a_batch_that_leaves_a_process_without_a_row_is_refused(real_text: Path, tmp_path: Path) -> None:
    for error in launch(learn, real_text, tmp_path / "run", TEXT | {"batch_size": 1}):
        assert isinstance(error, ConfigError)
        assert str(error).startswith("batch_size 1: expected at least 1 for each of 2 processes")
    assert not (tmp_path / "run").exists()


def test_one_diverging_process_ends_all(tmp_path: Path) -> None:
    for error in launch(fit, tmp_path, Weighted([1] * 4, spoil_row=3)):
        assert isinstance(error, DivergenceError)
        assert str(error).startswith("step 6: the loss is nan")
    assert checkpoint.read_tensors(tmp_path / checkpoint.TRAINING)[1]["step"] == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_in_one_process_saves_and_ends_all_after_the_same_step(tmp_path: Path, rank: int) -> None:
    outcomes = launch(fit, tmp_path, Weighted([1] * 4, interrupt=(rank, 4)))
    assert [(outcome.reason, outcome.counters.step) for outcome in outcomes] == [("interrupted", 5)] * 2
    assert checkpoint.read_tensors(tmp_path / checkpoint.TRAINING)[1]["step"] == 5


def test_what_goes_wrong_in_preparing_is_raised_in_every_process(tmp_path: Path) -> None:
    for error in launch(learn, tmp_path / "nosuch.txt", tmp_path / "run", TEXT):
        assert isinstance(error, DataError)
        assert "nosuch.txt: no such file or folder" in str(error)
    assert list(tmp_path.iterdir()) == []


def prepare_slowly(patiently: bool) -> str:
    """The main process is busy for longer than a step may take."""
    engine_module._TIMEOUT = datetime.timedelta(seconds=1)
    engine = Engine("cpu")

    def work() -> str:
        time.sleep(3)
        return f"prepared by {engine.index}"

    return engine.on_main(work) if patiently else engine.gather(work() if engine.is_main else "")[0]


def test_preparing_may_take_longer_than_a_step_and_a_step_is_not_waited_for_without_end() -> None:
    assert launch(prepare_slowly, True) == ["prepared by 0"] * 2
    assert "another process of this run" in str(launch(prepare_slowly, False)[1])


def threads_when_python_ends(folder: Path) -> tuple[int, int, int]:
    """How many there are before this process is connected, when it has trained, and after what runs at exit."""
    before = threads()
    engine = Engine("cpu")  # held to the end, as a program of somebody's own may
    train(Weighted([1] * 4), folder, engine=engine)  # type: ignore[arg-type]  # as much of a task as training asks for
    trained = threads()
    atexit._run_exitfuncs()
    assert engine.count == 2
    return before, trained, threads()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_no_thread_of_the_connection_outlives_python(tmp_path: Path) -> None:
    for before, trained, after in launch(threads_when_python_ends, tmp_path):
        assert before == after < trained


def connected_before(folder: Path) -> bool:
    """Whether a connection that this process made itself is still there after what runs at exit."""
    torch.distributed.init_process_group("gloo")
    fit(folder, Weighted([1] * 4))
    atexit._run_exitfuncs()
    return torch.distributed.is_initialized()


def test_a_connection_of_somebody_elses_is_left_to_them(tmp_path: Path) -> None:
    assert launch(connected_before, tmp_path) == [True, True]


@pytest.mark.parametrize(
    "launcher", ["torchrun --nproc_per_node 2 -m --", "accelerate launch --multi_gpu --num_processes 2 -m"]
)
def test_launchers_train_one_run_and_one_process_speaks(real_text: Path, tmp_path: Path, launcher: str) -> None:
    flags = [part for name, value in TEXT.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    name, *options = launcher.split()
    program = [str(Path(sys.executable).with_name(name)), *options, "unrolled", "train", "language-model", str(real_text)]
    program += ["--run", "run", *flags]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=threads, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 processes") == done.stderr.count("Try next") == 1
    assert "Warning" not in done.stderr
    assert tasks.load(tmp_path / "run").config.max_steps == 12
