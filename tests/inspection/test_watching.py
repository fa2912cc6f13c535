"""Gradients followed while a run trains."""

import json
from pathlib import Path

import pytest
import torch

from unrolled import checkpoint, tasks
from unrolled.config import TrainingConfig
from unrolled.inspection import watching
from unrolled.inspection.gradient_flow import Flow
from unrolled.inspection.watching import Watch


def flow(*left: float, of_last_step: bool = True) -> Flow:
    return Flow("layers.l0", list(left), [], list(left), of_last_step, list(left))


class Windows(TrainingConfig):
    k1: int = 64
    k2: int | None = None


def warned(monkeypatch: pytest.MonkeyPatch, found: Flow, times: int, **settings: int) -> list[str]:
    """What is said over so many watched steps that come to the same."""
    watch = Watch(torch.nn.RNN(1, 1), Windows(watch="gradients", **settings), torch.device("cpu"))
    monkeypatch.setattr(watching.Recorder, "flows", lambda self: [found])
    said = []
    for _ in range(times):
        watch.report()
        said += [text] if (text := watch.warning()) else []
    return said


def test_a_window_far_longer_than_the_gradient_reaches_is_said_to_be_wasted_once(monkeypatch) -> None:
    vanishing = flow(1.0, *[0.5] * 7, *[0.001] * 56)
    assert warned(monkeypatch, vanishing, 30, k2=256) == [
        "from 8 steps back on under 1% of the gradient is left (layers.l0): k2 = 256 may be wasted; "
        "`unrolled inspect truncation` measures it."
    ]
    assert warned(monkeypatch, vanishing, 30)[0].endswith("k1 = 64 may be wasted; `unrolled inspect truncation` measures it.")


def test_a_gradient_that_explodes_is_said_to(monkeypatch) -> None:
    (text,) = warned(monkeypatch, flow(1.0, 20.0, 400.0), 30)
    assert text.startswith("2 steps back the gradient is 400 times what it was at the loss (layers.l0): it explodes")


def test_nothing_is_said_of_what_reaches_or_of_a_few_steps_or_of_the_loss_of_all_steps(monkeypatch) -> None:
    assert warned(monkeypatch, flow(*[0.9**d for d in range(20)]), 30) == []
    vanishing = [1.0, *[0.001] * 63]
    assert warned(monkeypatch, flow(*vanishing), 2) == []
    assert warned(monkeypatch, flow(*vanishing, of_last_step=False), 30) == []


def test_being_watched_changes_no_weight_and_is_reported(real_text: Path, tmp_path: Path, tiny, monkeypatch, capsys) -> None:
    monkeypatch.setattr(watching, "EVERY", 10)
    for name in ("nothing", "gradients"):
        tasks.train("language-model", [str(real_text)], run=tmp_path / name, watch=name, **{**tiny, "dropout": 0.2})
    tensors = [checkpoint.read_tensors(tmp_path / name / checkpoint.MODEL)[0] for name in ("nothing", "gradients")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    lines = [json.loads(line) for line in (tmp_path / "gradients" / checkpoint.METRICS).read_text().splitlines()]
    reported = [line for line in lines if line["part"] == "train"]
    assert all(1 <= line["gradient_reach"] <= tiny["k1"] for line in reported)
    assert all(line["gradient_reach/layers.l0"] == line["gradient_reach"] for line in reported)
    assert all(0 < line["gradient_factor/layers.l0"] < 2 for line in reported)
    assert not any("gradient_reach" in line for line in map(json.loads, (tmp_path / "nothing" / checkpoint.METRICS).open()))
