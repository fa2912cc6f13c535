"""Both phases of training, resumed exactly, on the encoder as it is."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.tasks.captioning.tiny import TINY
from tests.tolerance import assert_same

from unrolled import checkpoint, tasks
from unrolled.errors import ConfigError
from unrolled.task import Step
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.task import Run, Task


def test_resuming_is_exact(shapes: Path, tmp_path: Path) -> None:
    whole = tasks.train("captioning", shapes, run=tmp_path / "whole", **TINY)
    taken: list[int] = []
    original = Task.batch

    def stop(self: Task, step: int) -> dict:
        if step == 8:
            raise KeyboardInterrupt
        taken.append(step)
        return original(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "batch", stop)
        with pytest.raises(KeyboardInterrupt):
            tasks.train("captioning", shapes, run=tmp_path / "stopped", **TINY)
    outcome = tasks.resume(tmp_path / "stopped")
    assert outcome.metrics == whole.metrics
    names = [(tmp_path / name / "training.safetensors").read_bytes() for name in ("whole", "stopped")]
    first, second = (safetensors_of(content) for content in names)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def safetensors_of(content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(content)


def test_the_second_phase_begins_with_the_first_ones_weights_and_resumes_exactly(
    captioner: Path, shapes: Path, tmp_path: Path
) -> None:
    settings = {
        **TINY,
        "objective": "self-critical",
        "start": str(captioner),
        "learning_rate": 1e-3,
        "max_steps": 4,
        "save_every": 2,
    }
    begun = Task(Config(data=(str(shapes),), **settings), captioner)
    shutil.copy(captioner / "model.safetensors", tmp_path / data.STARTING_WEIGHTS)
    begun.folder = tmp_path
    assert_same(begun.build().output.weight, Run(captioner).model.output.weight)
    whole = tasks.train("captioning", shapes, run=tmp_path / "whole", **settings)
    original = Task.loss

    def stop(self: Task, model, batch, carry) -> Step:
        step = original(self, model, batch, carry)
        if stop.seen == 3:
            raise KeyboardInterrupt
        stop.seen += 1
        return step

    stop.seen = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "loss", stop)
        with pytest.raises(KeyboardInterrupt):
            tasks.train("captioning", shapes, run=tmp_path / "stopped", **settings)
    assert tasks.resume(tmp_path / "stopped").metrics == whole.metrics
    measured = [line["cider"] for line in checkpoint.read_metrics(tmp_path / "whole") if line["part"] == "validation"]
    assert whole.counters.best == max(measured)


def test_starting_from_a_model_of_another_shape_is_refused(captioner: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_size: it has 32, got 16"):
        tasks.train("captioning", shapes, run=tmp_path / "run", **{**TINY, "hidden_size": 16}, start=str(captioner))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_layers": 1}, "attention-between expected num_layers of 2 or more, got 1"),
        ({"heads": 5}, "a hidden_size that 5 divides, got dot and 512"),
        ({"objective": "self-critical"}, "Name it with start"),
        ({"image": "initial", "doubly_stochastic": 1.0}, "expected image = attention, got initial"),
    ],
)
def test_settings_at_odds_are_refused(shapes: Path, tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tasks.train("captioning", shapes, run=tmp_path / "run", **settings)
