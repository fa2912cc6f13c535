"""Captioning in two processes: photos and captions shared out, learning and measuring."""

from pathlib import Path

import pytest
import torch
from tests.launched import launch
from tests.tasks.captioning.tiny import TINY

from unrolled import checkpoint, tasks
from unrolled.engine import Engine
from unrolled.task import Outcome
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.task import Task

# A batch of 7 of the 15 photos: 3 and 4 rows, and at the end of each epoch a single one for both processes.
SETTINGS = TINY | {"batch_size": 7, "dropout": 0.0, "max_steps": 6, "evaluate_every": 3, "save_every": 3}


def learn(shapes: Path, run: Path, settings: dict) -> Outcome:
    return tasks.train("captioning", shapes, run=run, **settings)


# In the fourth step the CNN learns for the first time. After it AdamW has made whole steps of gradients that are but rounding.
LEARNING = {"fine_tune_from": 2, "max_steps": 4, "evaluate_every": 4}


@pytest.mark.parametrize("more", [{}, LEARNING], ids=["features", "photos, from which the CNN learns too"])
def test_two_processes_learn_what_one_learns(shapes: Path, tmp_path: Path, more: dict) -> None:
    # One is started as the two are: PyTorch's gradient of a CNN on one thread and on two differs by up to 0.4%.
    (one,) = launch(learn, shapes, tmp_path / "one", SETTINGS | more, count=1)
    first, second = launch(learn, shapes, tmp_path / "two", SETTINGS | more)
    assert first == second
    assert first.metrics == pytest.approx(one.metrics, rel=1e-4)
    lines = [[line for line in checkpoint.read_metrics(tmp_path / run) if line["part"] == "train"] for run in ("one", "two")]
    assert [line["gradient_norm"] for line in lines[1]] == pytest.approx([line["gradient_norm"] for line in lines[0]], rel=1e-4)


def test_the_second_phase_resumes_exactly(captioner: Path, shapes: Path, tmp_path: Path) -> None:
    settings = TINY | {
        "objective": "self-critical",
        "start": str(captioner),
        "max_steps": 4,
        "save_every": 2,
        "evaluate_every": 4,
    }
    launch(learn, shapes, tmp_path / "whole", settings)
    launch(learn_and_stop, shapes, tmp_path / "stopped", settings)
    launch(tasks.resume, tmp_path / "stopped")
    whole, stopped = (checkpoint.read_tensors(tmp_path / run / checkpoint.TRAINING)[0] for run in ("whole", "stopped"))
    assert [name for name in whole if not torch.equal(whole[name], stopped[name])] == []
    assert not torch.equal(whole["random.cpu"], whole["process.1.random.cpu"])


def learn_and_stop(shapes: Path, run: Path, settings: dict) -> Outcome:
    original = Task.loss

    def loss(self: Task, *arguments):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 4:
            raise RuntimeError("stop")
        return original(self, *arguments)

    Task.loss = loss  # type: ignore[method-assign]  # this process is ours alone
    return learn(shapes, run, settings)


def test_each_process_decodes_its_own_photos_and_sees_what_one_would(shapes: Path, tmp_path: Path) -> None:
    learn(shapes, tmp_path / "run", SETTINGS | {"max_steps": 1, "fine_tune_from": 1})
    task = Task(tasks.load(tmp_path / "run").config, tmp_path / "run")
    decoded: list[str] = []
    pixels = data.pixels

    def counted(encoder, one, *rest):
        decoded.append(one.name)
        return pixels(encoder, one, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "pixels", counted)
        whole = Engine("cpu").shard(task.batch(0))["features"]
        parts = []
        for index in range(2):
            engine = Engine("cpu")
            engine.index, engine.count = index, 2
            parts.append(engine.shard(task.batch(0))["features"])
    assert [len(part) for part in parts] == [3, 4]
    assert len(decoded) == 14
    assert torch.equal(torch.cat(parts), whole)
