"""A trained run from Python and from the command line: drawing, its steps, reading and drawing, and what it cannot do."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.tasks.drawing.conftest import TINY

from unrolled import tasks
from unrolled.errors import RunError
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.draw import Draw
from unrolled.tasks.drawing.task import Run


def test_the_same_seed_draws_the_same_images_and_the_first_do_not_depend_on_the_count(draw_run: Path) -> None:
    run = tasks.load(draw_run)
    first, same, more, other = run.draw(3, seed=5), run.draw(3, seed=5), run.draw(7, seed=5), run.draw(3, seed=6)
    assert first.shape == (3, 1, 7, 5)
    assert torch.equal(first, same)
    torch.testing.assert_close(first, more[:3])
    assert not any(torch.allclose(one, two) for one in first for two in other)


def test_the_class_that_is_asked_for_is_drawn(draw_run: Path) -> None:
    run = tasks.load(draw_run)
    upright, lying, every = run.draw(4, label="1"), run.draw(4, label="0"), run.draw(4)
    assert not torch.allclose(upright, lying)
    torch.testing.assert_close(every, torch.stack([lying[0], upright[1], lying[2], upright[3]]))  # in turn
    with pytest.raises(RunError, match=r"knows no class '7'\. It has 0, 1"):
        run.draw(1, label="7")


def test_images_whose_canvases_do_not_fit_together_are_drawn_one_by_one(
    draw_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counts = tasks.load(draw_run), []
    together, one = run.draw(5), run.model.draw
    monkeypatch.setattr("unrolled.tasks.drawing.generate.NUMBERS", 4 * 35 + 1)
    monkeypatch.setattr(run.model, "draw", lambda latents, labels: counts.append(latents.shape[1]) or one(latents, labels))
    torch.testing.assert_close(run.draw(5), together)
    assert counts == [1] * 5


def test_steps_end_in_what_is_drawn(draw_run: Path) -> None:
    run = tasks.load(draw_run)
    drawn = run.steps(3, seed=2)
    assert drawn.canvases.shape == (TINY["steps"] + 1, 3, 1, 7, 5)
    torch.testing.assert_close(drawn.canvases[-1], run.draw(3, seed=2))
    assert drawn.writing.shape == (TINY["steps"], 3, 4)


def test_pictures_are_sheets_and_animations(command, draw_run: Path, bar_file: Path, tmp_path: Path) -> None:
    code, out, errors = command("draw", draw_run, "--count", "6", "--output", tmp_path / "new" / "samples.png")
    assert (code, out, errors) == (0, f"{tmp_path / 'new' / 'samples.png'}\n", "")
    assert Image.open(out.strip()).size == (2 * (60 + 4) - 4, 3 * (84 + 4) - 4)  # 7 x 5 pixels, 12 times as large, 2 classes
    steps = ["draw", draw_run, "--steps", "--count", "2", "--json"]
    code, out, _ = command(*steps, "--output", tmp_path / "steps.gif")
    assert json.loads(out) == {"picture": str(tmp_path / "steps.gif"), "images": 2, "seed": 0}
    assert Image.open(tmp_path / "steps.gif").n_frames == TINY["steps"] + 1
    code, out, _ = command("draw", draw_run, "--reconstruct", bar_file, "--output", tmp_path / "read.png")
    assert code == 0
    assert Image.open(tmp_path / "read.png").size == (3 * 64 - 4, 2 * 40 * 88 - 4)  # above each canvas what was read
    code, out, _ = command("draw", draw_run)
    assert out == f"{draw_run / 'pictures' / 'samples.png'}\n"


def test_an_mp4_that_cannot_be_written_is_refused_before_any_work(command, draw_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(Run, "draw_steps", lambda *_, **__: pytest.fail("it drew"))
    code, out, errors = command("draw", draw_run, "--steps", "--output", tmp_path / "steps.mp4")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "needs the package av" in errors


def test_an_mp4_has_a_frame_for_each_step(command, draw_run: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    code, _, errors = command("draw", draw_run, "--steps", "--output", tmp_path / "steps.mp4")
    assert code == 0, errors
    with av.open(str(tmp_path / "steps.mp4")) as container:
        assert len(list(container.decode(video=0))) == TINY["steps"] + 2  # the last one is there twice, and stays


MISTAKES = {
    ("--complete", "x.png"): "a DRAW makes the whole of an image from its latent variables, and cannot complete one; "
    "--model row_lstm and diagonal_bilstm can.",
    ("--class", "2"): "knows no class '2'. It has 0, 1.",
    ("--steps", "--complete", "x.png"): "expected one of --steps, --reconstruct and --complete, got --steps and --complete.",
    ("--output", "a.jpg"): "--output a.jpg: expected a name that ends with .png, .gif or .mp4.",
    ("--reconstruct", "x.png", "--count", "2"): "--count: --reconstruct draws each image once. Leave it out.",
    ("--complete", "x.png", "--class", "1"): "--class: --complete goes by the images that it is given. Leave it out.",
    (
        "--steps",
        "--count",
        "10000",
    ): "expected at most 7,943 images, which it has room for, each 4 times, got 10,000. Show fewer.",
    ("--output", "a.gif"): "--output a.gif: only --steps and --reconstruct play; a sheet is a .png.",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_what_cannot_be_drawn_is_said_in_one_line(command, draw_run: Path, words: tuple[str, ...]) -> None:
    code, out, errors = command("draw", draw_run, *words)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert MISTAKES[words] in errors


def test_a_sheet_that_could_not_be_opened_again_is_refused_before_it_is_drawn(
    command, draw_run: Path, bar_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("unrolled.inspection.sheets.MAX_PIXELS", 88 * 64 * 9)  # of images of 7 x 5 pixels, 12 times as large
    monkeypatch.setattr("unrolled.tasks.drawing.draw.Draw.draw", lambda *_: pytest.fail("it has been drawn"))
    monkeypatch.setattr("unrolled.tasks.drawing.draw.Draw.reconstruct", lambda *_: pytest.fail("it has been drawn"))
    for words, most in (
        (("--count", "10"), "9 images, which it has room for, got 10"),
        (("--steps",), "2 images"),
        (("--reconstruct", bar_file), "1 images, which it has room for, each 8 times, got 40"),
    ):
        code, _, errors = command("draw", draw_run, *words, "--output", tmp_path / "a.png")
        assert (code, errors.count("\n")) == (2, 1)
        assert f"a.png: expected at most {most}" in errors


def test_a_run_that_was_told_no_class_says_so(command, bar_file: Path, tmp_path: Path) -> None:
    tasks.train("drawing", bar_file, run=tmp_path / "run", attention=False, **TINY)
    code, _, errors = command("draw", tmp_path / "run", "--class", "1")
    assert code == 2
    assert "it was not told classes, so it cannot draw '1'. Train with --conditional." in errors
    drawn = tasks.load(tmp_path / "run").steps(2)  # without attention there are no windows to show
    assert drawn.writing is None
    code, _, _ = command("draw", tmp_path / "run", "--steps", "--output", tmp_path / "steps.png")
    assert code == 0


def test_evaluating_says_how_many_samples_its_estimate_took(command, draw_run: Path, bar_file: Path) -> None:
    code, out, errors = command("evaluate", draw_run, bar_file, "--json", "--set", "samples=7")
    assert code == 0, errors
    found = json.loads(out)
    keys = {"loss", "reconstruction", "kl", "importance_weighted", "samples", "images"}
    assert keys | {"bits_per_dimension", "importance_weighted_bits_per_dimension"} == set(found)
    assert (found["samples"], found["images"]) == (7, 40)
    assert found["importance_weighted"] < found["loss"]


def test_it_learns_more_than_how_bright_each_pixel_is_by_itself() -> None:
    """Twelve bars, lying and upright: from pixels each by themselves a bar is 16 nats, from which of the twelve 2.5."""
    lying, upright = torch.eye(7).unsqueeze(2).expand(-1, -1, 5), torch.eye(5).unsqueeze(1).expand(-1, 7, -1)
    bars = torch.cat([lying, upright]).unsqueeze(1)
    mean = bars.mean(0)
    alone = -float((mean * mean.log() + (1 - mean) * (1 - mean).log()).sum())
    model = Draw(Config(steps=4, hidden_size=32, latent_size=4, read_size=3, write_size=3), (1, 7, 5), mean=mean)
    adam, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(200):
        bound = model(bars.repeat(4, 1, 1, 1))
        loss = (bound.reconstruction + bound.kl).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(alone, rel=0.2)
    assert sum(losses[-10:]) / 10 < alone / 2
