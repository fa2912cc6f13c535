"""The picture of a run's loss says what it plots."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from unrolled import checkpoint
from unrolled.inspection import loss_curve
from unrolled.task import Metric


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *arguments, **settings) -> None:
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def report(folder: Path) -> None:
    for step, loss in ((10, 30.0), (20, 20.0), (30, 25.0)):
        checkpoint.append_metrics(folder, {"step": step, "part": "train", "loss": loss})
        checkpoint.append_metrics(folder, {"step": step, "part": "validation", "loss": loss / 10, "cider": 1 / loss})


def test_a_loss_and_a_metric_of_the_same_unit_share_one_plot(tmp_path: Path, drawn: list[Figure]) -> None:
    report(tmp_path)
    assert loss_curve.draw(tmp_path, "nats per token", Metric("loss", "nats per token")) == tmp_path / "loss.png"
    (axes,) = drawn[0].axes
    assert axes.get_ylabel() == "loss (nats per token)"
    assert [list(line.get_ydata()) for line in axes.lines] == [[30, 20, 25], [3, 2, 2.5]]
    assert [text.get_text() for text in axes.texts] == ["best 2.000"]


def test_a_metric_of_another_unit_has_a_plot_of_its_own(tmp_path: Path, drawn: list[Figure]) -> None:
    report(tmp_path)
    loss_curve.draw(tmp_path, "nats per caption", Metric("cider", "CIDEr", lower_is_better=False))
    loss, metric = drawn[0].axes
    assert (loss.get_ylabel(), metric.get_ylabel()) == ("loss (nats per caption)", "CIDEr")
    assert [list(line.get_ydata()) for line in metric.lines] == [[1 / 30, 1 / 20, 1 / 25]]
    assert [text.get_text() for text in metric.texts] == ["best 0.050"]  # the highest


def test_a_run_without_reports_has_no_picture(tmp_path: Path) -> None:
    assert loss_curve.draw(tmp_path) is None
