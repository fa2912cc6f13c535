"""The loop: what it reports, when it stops, and that stopping and going on changes nothing."""

import importlib.util
import json
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from unrolled import checkpoint, tasks
from unrolled.config import TrainingConfig
from unrolled.errors import DivergenceError, RunError
from unrolled.optimizer import learning_rate
from unrolled.task import Counters, Metric, Processes, Run, Step, Task, require
from unrolled.training import train
from unrolled.training_log import open_log


def contents(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that training moves, best and last."""
    best, _ = checkpoint.read_tensors(folder / checkpoint.MODEL)
    last, facts = checkpoint.read_tensors(folder / checkpoint.TRAINING)
    facts.pop("seconds")
    counters = torch.tensor([math.inf if value is None else float(value) for value in facts.values()])
    return {**{f"best.{k}": v for k, v in best.items()}, **last, "facts": counters}


def assert_bit_identical(one: Path, other: Path) -> None:
    a, b = contents(one), contents(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


class Toy:
    """The smallest task: fit a line; `losses` may be bent to see what the loop does."""

    name, unit, summary = "toy", "points", "8 points"
    loss_name, selection = "squares", Metric()

    def __init__(self, validation: list[float] | None = None, spoil_at: int | None = None, **settings) -> None:
        given = {"max_steps": 20, "evaluate_every": 5, "save_every": 5, "sample_every": 0, **settings}
        self.config, self.validation, self.spoil_at = TrainingConfig(**given), validation, spoil_at

    @staticmethod
    def prepare(config, folder, say) -> None: ...

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def batch(self, step: int) -> dict:
        x = torch.linspace(-1, 1, 8)[:, None] * (step % 3 + 1)
        if step == self.spoil_at:
            x[0] = math.nan
        return {"x": x}

    def loss(self, model: nn.Module, batch: dict, carry: dict) -> Step:
        loss = (model(batch["x"]) - 3 * batch["x"] - 1).square().mean()
        return Step(loss, 8, {"seen": carry.get("seen", torch.zeros(())) + 1})

    def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
        torch.rand(3)  # an evaluation may draw numbers without moving training's
        return {"loss": self.validation.pop(0)} if self.validation else {}

    def show(self, model: nn.Module, seed: int) -> str:
        return "a sample"


def test_a_step_searches_for_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: searched.append(name) or find(name, *more))
    counts = []
    for steps in (2, 2, 9):  # the first run may import what it needs
        searched.clear()
        train(Toy(max_steps=steps), tmp_path / f"{len(counts)}")
        counts.append(len(searched))
    assert counts[1] == counts[2]


def test_the_rate_rises_then_falls_to_zero_with_steps_or_seconds_whichever_is_further() -> None:
    config = TrainingConfig(max_steps=100, warmup_steps=10, learning_rate=1.0, max_seconds=50)
    at = lambda step, seconds: learning_rate(config, Counters(step=step, seconds=seconds))  # noqa: E731
    assert at(0, 0) == pytest.approx(0.1)
    assert at(50, 0) == pytest.approx(0.5)
    assert at(50, 25) == pytest.approx(0.5)
    assert at(20, 40) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.8)))
    assert at(20, 60) == 0


def test_reports_go_to_metrics_and_tensorboard(tmp_path: Path) -> None:
    outcome = train(Toy(validation=[3.0, 2.0, 2.5, 2.2]), tmp_path)
    assert outcome.reason == "finished"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["part"] == "train"] == [10, 20]
    assert [line["loss"] for line in lines if line["part"] == "validation"] == [3.0, 2.0, 2.5, 2.2]
    assert {"loss", "gradient_norm", "learning_rate", "seconds"} <= lines[0].keys() | lines[1].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("validation/loss")] == [3.0, 2.0, 2.5, pytest.approx(2.2)]


def test_of_the_errors_of_threads_only_those_of_the_disk_wait_for_the_next_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[type] = []
    hook = lambda details: shown.append(details.exc_type)  # noqa: E731
    monkeypatch.setattr(threading, "excepthook", hook)

    def fail(error: Exception) -> None:
        raise error

    with open_log(tmp_path, 0):
        for error in (OSError("full"), ValueError("a fault")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert shown == [ValueError]
    assert threading.excepthook is hook


def test_the_best_weights_are_kept_beside_the_last(tmp_path: Path) -> None:
    outcome = train(Toy(validation=[3.0, 2.0, 2.5, 2.2]), tmp_path)
    assert (outcome.counters.best_step, outcome.counters.best) == (10, 2.0)
    best, _ = checkpoint.read_tensors(tmp_path / checkpoint.MODEL)
    last, _ = checkpoint.read_tensors(tmp_path / checkpoint.TRAINING)
    assert not torch.equal(best["weight"], last["model.weight"])


def test_the_best_weights_are_those_of_the_metric_that_the_task_selects_by(tmp_path: Path) -> None:
    class Scored(Toy):
        selection = Metric("score", "points", lower_is_better=False)

        def evaluate(self, model: nn.Module, processes: Processes) -> dict[str, float]:
            return {"score": loss["loss"], "loss": 0.0} if (loss := super().evaluate(model, processes)) else {}

    outcome = train(Scored(validation=[0.1, 0.5, 0.4, 0.3, 0.9], patience=2, max_steps=25), tmp_path)
    assert (outcome.counters.best_step, outcome.counters.best, outcome.reason) == (10, 0.5, "early stopping")


def test_what_a_task_or_a_run_lacks_is_named_in_one_line() -> None:
    class Half:
        name = "half"

        def build(self) -> None: ...
        def loss(self) -> None: ...

    with pytest.raises(RunError) as error:
        require(Half, Task, "their_package")
    assert str(error.value) == "their_package: its Task lacks prepare, batch, evaluate, show; see unrolled.task.Task."
    with pytest.raises(RunError, match="lacks unit, loss_name, selection, config, summary, prepare, batch, evaluate, show;"):
        require(Half(), Task, "their_package")
    with pytest.raises(RunError, match="its Run lacks evaluate, export, preview;"):
        require(Half, Run, "their_package")
    require(Toy(), Task, "toy")


def test_it_stops_early_when_evaluations_do_not_get_better(tmp_path: Path) -> None:
    outcome = train(Toy(validation=[3.0, 3.1, 3.2, 0.1], patience=2), tmp_path)
    assert (outcome.reason, outcome.counters.step) == ("early stopping", 15)
    outcome = train(Toy(validation=[3.0, 3.1, 3.2, 3.3], patience=0), tmp_path)
    assert outcome.reason == "finished"


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_what_is_as_good_as_the_best_is_not_better(lower_is_better: bool) -> None:
    metric = Metric("score", "points", lower_is_better)
    assert not metric.improves(0.5, best=0.5)
    assert metric.improves(0.5, best=0.6) == lower_is_better
    assert metric.improves(0.7, best=0.6) != lower_is_better


def test_it_stops_when_the_seconds_are_used_up(tmp_path: Path) -> None:
    outcome = train(Toy(max_steps=10**9, max_seconds=0.2), tmp_path)
    assert outcome.reason == "finished"
    assert outcome.counters.seconds >= 0.2


@pytest.mark.parametrize("spoil_at", [2, 12])
def test_a_nan_stops_training_and_keeps_the_last_good_checkpoint(tmp_path: Path, spoil_at: int) -> None:
    with pytest.raises(DivergenceError, match=rf"step {spoil_at + 1}: the loss is nan.*--learning-rate"):
        train(Toy(spoil_at=spoil_at), tmp_path)
    tensors, facts = checkpoint.read_tensors(tmp_path / checkpoint.TRAINING)
    assert facts["step"] == spoil_at // 5 * 5
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_ctrl_c_saves_the_step_in_hand_and_going_on_gives_the_same_weights(tmp_path: Path) -> None:
    class Interrupted(Toy):
        def loss(self, model: nn.Module, batch: dict, carry: dict) -> Step:
            if carry.get("seen") == 7:
                signal.raise_signal(signal.SIGINT)
            return super().loss(model, batch, carry)

    handler = signal.getsignal(signal.SIGINT)
    outcome = train(Interrupted(), tmp_path / "a")
    assert (outcome.reason, outcome.counters.step) == ("interrupted", 8)
    assert signal.getsignal(signal.SIGINT) is handler
    assert train(Toy(), tmp_path / "a", resume=True).counters.step == 20
    train(Toy(), tmp_path / "b")
    assert_bit_identical(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("patience", [0, 2])
def test_resuming_a_run_that_has_ended_changes_nothing(tmp_path: Path, patience: int) -> None:
    losses = [3.0, 3.1, 3.2, 3.3]
    first = train(Toy(validation=list(losses), patience=patience), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = train(Toy(validation=list(losses), patience=patience), tmp_path, resume=True)
    assert (again.reason, again.counters) == (first.reason, first.counters)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("step", [7, 15], ids=["between evaluations", "where it stops early"])
def test_ctrl_c_leaves_the_reports_and_the_end_of_a_run_as_they_would_have_been(tmp_path: Path, step: int) -> None:
    class Interrupted(Toy):
        def batch(self, number: int) -> dict:
            if number == step - 1:
                signal.raise_signal(signal.SIGINT)
            return super().batch(number)

    losses, settings = [3.0, 3.1, 3.2, 3.3], {"patience": 2, "workers": 0}
    train(Toy(validation=list(losses), **settings), tmp_path / "whole")
    stopped = train(Interrupted(validation=(left := list(losses)), **settings), tmp_path / "stopped")
    assert (stopped.reason, stopped.counters.step) == ("interrupted" if step == 7 else "early stopping", step)
    train(Toy(validation=left, **settings), tmp_path / "stopped", resume=True)
    assert_bit_identical(tmp_path / "whole", tmp_path / "stopped")
    whole, resumed = (
        [{**line, "seconds": 0} for line in checkpoint.read_metrics(tmp_path / run)] for run in ("whole", "stopped")
    )
    assert whole == resumed


def test_a_run_that_lost_its_checkpoint_is_not_trained_from_the_beginning(
    real_text: Path, tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the trained model and its reports. One killed before its first checkpoint has neither, and begins."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(checkpoint, "save_tensors", _interrupt)
        tasks.train("language-model", str(real_text), run=run, **tiny)
    assert not (run / checkpoint.TRAINING).exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(checkpoint, "append_metrics", _interrupt)
        tasks.resume(run)
    assert checkpoint.read_tensors(run / checkpoint.TRAINING)[1]["step"] == 0
    assert tasks.resume(run).counters.step == tiny["max_steps"]
    (run / checkpoint.TRAINING).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert tasks.resume(run).reason == "finished"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    checkpoint.truncate_metrics(run, 20)
    with pytest.raises(RunError, match=r"it has model\.safetensors and metrics\.jsonl, so it was begun\..*or begin a new run"):
        tasks.resume(run)
    (run / checkpoint.METRICS).unlink()
    with pytest.raises(RunError, match=r"it has model\.safetensors, so it was begun"):
        tasks.resume(run)


def _interrupt(*arguments, **how) -> None:
    raise KeyboardInterrupt


def test_evaluating_and_sampling_do_not_move_trainings_random_numbers(real_text: Path, tmp_path: Path, tiny: dict) -> None:
    tiny |= {"dropout": 0.3, "max_steps": 20}
    runs = []
    for name, how in {"often": {"evaluate_every": 3, "sample_every": 2}, "never": {"evaluate_every": 20}}.items():
        tasks.train("language-model", [str(real_text)], run=tmp_path / name, **{**tiny, **how})
        runs.append(checkpoint.read_tensors(tmp_path / name / checkpoint.TRAINING)[0])
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "lstm", "num_layers": 2, "dropout": 0.2},
        {"cell": "gru", "k2": 40},
        {"cell": "rnn", "k2": 5, "input": "one-hot"},
        {"tied": True, "precision": "bf16"},
    ],
    ids=str,
)
def test_resuming_is_exact(real_text: Path, tmp_path: Path, tiny: dict, settings: dict) -> None:
    tiny |= {"max_steps": 40, "evaluate_every": 7, "save_every": 9, **settings}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    tasks.train("language-model", [str(real_text)], run=whole, **tiny)

    class StopError(Exception): ...

    save = checkpoint.save_tensors

    def save_and_stop(path: Path, tensors: dict, facts: dict) -> None:
        save(path, tensors, facts)
        if facts["step"] == 18:
            raise StopError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):  # noqa: PT012
        patch.setattr(checkpoint, "save_tensors", save_and_stop)
        tasks.train("language-model", [str(real_text)], run=cut, **tiny)
    outcome = tasks.resume(cut)
    assert outcome.counters.step == 40
    assert_bit_identical(whole, cut)
    reports = [[{**line, "seconds": 0} for line in checkpoint.read_metrics(run)] for run in (whole, cut)]
    assert reports[0] == reports[1]


def test_resuming_with_other_settings_is_refused(trained: Path) -> None:
    with pytest.raises(RunError, match=r"keeps its settings; hidden_size: the run has 16, got 32\. Leave"):
        tasks.resume(trained, hidden_size="32")
    with pytest.raises(RunError, match="the run has"):
        tasks.resume(trained, data=["other.txt"])


def _train_in_another_process(folder: Path, text: Path, settings: dict, resume: bool, kill_at_write: int | None) -> None:
    torch.set_num_threads(1)
    if kill_at_write is not None:  # die inside the n-th write: before the flush, between flush and rename, or just after
        calls = 0
        for name in ("fsync", "replace"):
            original = getattr(os, name)

            def dying(*arguments, _original=original):
                nonlocal calls
                calls += 1
                if calls == kill_at_write:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _original(*arguments)

            setattr(os, name, dying)
    if resume:
        tasks.resume(folder)
    else:
        tasks.train("language-model", [str(text)], run=folder, **settings)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes that start with torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unrolled.tasks.language_model.task", "unrolled.inspection.loss_curve"])
    return context


class TestKill:
    """kill -9 at any moment, again and again, ends in the weights of a run that nobody disturbed."""

    SETTINGS = {  # noqa: RUF012
        "hidden_size": 64, "batch_size": 4, "k1": 16, "max_steps": 60, "evaluate_every": 6, "save_every": 1,
        "sample_every": 0, "dropout": 0.1,
    }  # fmt: skip

    def survive(self, processes, folder: Path, text: Path, kills: list, undisturbed: Path) -> int:
        """Kill by each of `kills` (seconds after the first checkpoint, or the number of a write); then finish."""
        landed = 0
        for kill in kills:
            resume = folder.exists()
            at_write = kill if isinstance(kill, int) else None
            process = processes.Process(target=_train_in_another_process, args=(folder, text, self.SETTINGS, resume, at_write))
            process.start()
            if at_write is None:
                while process.is_alive() and not (folder / checkpoint.TRAINING).exists():
                    time.sleep(0.002)
                time.sleep(kill)
                process.kill()
            process.join()
            landed += process.exitcode == -signal.SIGKILL
        tasks.resume(folder) if folder.exists() else tasks.train("language-model", [str(text)], run=folder, **self.SETTINGS)
        assert_bit_identical(folder, undisturbed)
        assert not list(folder.glob(".*"))
        return landed

    @pytest.fixture
    def undisturbed(self, tmp_path: Path, real_text: Path) -> Path:
        tasks.train("language-model", [str(real_text)], run=tmp_path / "undisturbed", **self.SETTINGS)
        return tmp_path / "undisturbed"

    def test_at_random_moments(self, processes, tmp_path: Path, real_text: Path, undisturbed: Path) -> None:
        seconds = json.loads((undisturbed / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
        moments = [random.uniform(0, seconds / 12) for _ in range(20)]
        landed = self.survive(processes, tmp_path / "run", real_text, moments, undisturbed)
        assert landed >= 3  # on a fast machine the run may be over before the last of them

    def test_while_a_checkpoint_is_being_written(self, processes, tmp_path: Path, real_text: Path, undisturbed: Path) -> None:
        landed = self.survive(processes, tmp_path / "run", real_text, [1, 3, 4, 5, 6, 7, 8, 9, 13, 20, 31], undisturbed)
        assert landed == 11
