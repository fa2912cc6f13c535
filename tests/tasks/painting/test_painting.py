"""A painter: its strokes help, its budget holds, pictures in any form, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unrolled
from tolerance import assert_same
from unrolled.errors import ConfigError, DataError
from unrolled.strokes import Painting, render
from unrolled.tasks import reopened
from unrolled.tasks.painting import generate, generated
from unrolled.tasks.painting import optimise as refining
from unrolled.tasks.painting.config import Config
from unrolled.tasks.painting.data import Pictures, prepare
from unrolled.tasks.painting.generate import paint
from unrolled.tasks.painting.loss import chosen, training_loss
from unrolled.tasks.painting.model import Laid, Painter, best_colour, lay
from unrolled.tasks.painting.optimise import optimise
from unrolled.tasks.painting.pictures import error, pixels
from unrolled.tasks.painting.windows import Grid


def painter(strokes: int = 3) -> Painter:
    torch.manual_seed(0)
    return Painter(16, strokes).eval()


def picture(height: int = 40, width: int = 60, seed: int = 0) -> torch.Tensor:
    square = generated.picture(np.random.default_rng(seed), max(height, width))
    return torch.from_numpy(square[:height, :width].copy()).float().permute(2, 0, 1)


def test_the_colour_is_the_best_of_all() -> None:
    torch.manual_seed(1)
    alpha, target, canvas = torch.rand(4, 1, 8, 8), 0.3 + 0.4 * torch.rand(4, 3, 8, 8), 0.3 + 0.4 * torch.rand(4, 3, 8, 8)
    colour = best_colour(alpha, target, canvas)

    def left(colour: torch.Tensor) -> torch.Tensor:
        return (canvas + alpha * (colour[..., None, None] - canvas) - target).square().sum((2, 3))

    assert ((colour > 0) & (colour < 1)).all()
    for shift in (-0.01, 0.01):
        assert (left(colour) < left(colour + shift)).all()


def test_errors_are_those_of_the_strokes_as_they_are_rendered() -> None:
    model, target = painter(), torch.rand(1, 3, 32, 32)
    canvas = torch.full_like(target, 0.5)
    points, radii, opacity, _ = model(target, canvas, torch.zeros(1, 16))
    laid = lay(points, radii, opacity, target, canvas)
    assert laid.errors.shape == (1, 4)
    every = Laid(*laid[:4], errors=torch.tensor([[3.0, 2.0, 1.0, 0.0]]))  # as if each helped alike
    grid = Grid(rows=1, columns=1, moved=False, longer=32)
    strokes = chosen(every, grid, 3)
    inside = strokes._replace(points=strokes.points + grid.before / 32)
    assert_same(laid.errors[0, 3], (render(inside, 32, 32, canvas[0]) - target[0]).square().mean())


def test_only_strokes_that_help_are_chosen_the_best_first() -> None:
    laid = Laid(
        torch.rand(2, 2, 3, 2), torch.rand(2, 2, 2), torch.rand(2, 2, 3), torch.tensor([[0.1, 0.2], [0.3, 0.4]]),
        errors=torch.tensor([[1.0, 1.5, 0.0], [1.0, 0.9, 0.7]]),
    )  # fmt: skip
    grid = Grid(rows=1, columns=2, moved=False, longer=48)
    assert chosen(laid, grid, 9).opacity.tolist() == pytest.approx(
        [0.3, 0.2, 0.4]
    )  # the first of every window, then the second
    assert chosen(laid, grid, 1).opacity.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (1, 1), (1, 90), (200, 7)])
def test_a_painting_has_the_picture_s_shape_and_keeps_to_the_budget(size: tuple[int, int]) -> None:
    told: list[Painting] = []
    painting = paint(painter(), picture(*size), 50, told=told.append)
    assert painting.height_to_width == size[0] / size[1]
    assert len(painting.strokes.opacity) <= 50
    assert sum(len(piece.strokes.opacity) for piece in told) == len(painting.strokes.opacity)
    assert painting.strokes.seeds.tolist() == [int(one) for piece in told for one in piece.strokes.seeds]
    assert all(one.isfinite().all() for one in painting.strokes)


def test_every_stroke_of_an_untrained_painter_helps_too() -> None:
    one = picture()
    few, many = (error(paint(painter(), one, strokes), one) for strokes in (5, 80))
    bare = float((one - one.mean((1, 2), keepdim=True)).square().mean())
    assert many < few < bare


def test_more_strokes_than_are_moved_together_come_closer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (generate, refining):
        monkeypatch.setattr(module, "TOGETHER", 40)
    one = picture()
    within, beyond = (error(paint(painter(), one, strokes), one) for strokes in (40, 60))
    assert beyond < within


def test_a_picture_of_one_colour_needs_no_strokes() -> None:
    colour = torch.tensor([9.0, 200.0, 5.0])[:, None, None] / 255  # whose mean is not quite itself
    painting = paint(painter(), colour.expand(3, 30, 40), 20)
    assert not len(painting.strokes.opacity)
    assert_same(painting.render(40), colour.expand(3, 30, 40))


def test_optimising_brings_a_painting_closer_and_leaves_the_one_it_began_with() -> None:
    one = picture(32, 32)
    painting = paint(painter(), one, 12)
    before, points = error(painting, one), painting.strokes.points.clone()
    closer = optimise(painting, one, steps=15, longer=48)
    assert error(closer, one) < before
    assert_same(painting.strokes.points, points)


def test_every_form_of_a_picture_is_the_same_picture(tmp_path: Path) -> None:
    array = (picture().permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    expected = torch.from_numpy(array).permute(2, 0, 1) / 255
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array, array / 255.0, expected):
        assert_same(pixels(form), expected)
    for grey in (array[..., 0], array[..., :1].astype(np.uint16) * 257, expected[:1]):
        assert_same(pixels(grey), expected[:1].expand(3, -1, -1))
    clear = np.concatenate([array, np.zeros((40, 60, 1), np.uint8)], 2)
    for form in (clear, Image.fromarray(clear), torch.from_numpy(clear).permute(2, 0, 1)):
        assert_same(pixels(form), torch.ones(3, 40, 60))


def test_large_pictures_are_seen_smaller_and_never_stretched() -> None:
    assert pixels(np.zeros((2000, 1000, 3), np.uint8)).shape == (3, 768, 384)
    assert pixels(np.zeros((1, 5000, 3), np.uint8)).shape == (3, 1, 768)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            np.zeros((4, 4, 2)),
            np.zeros((0, 4, 3)),
            np.full((4, 4, 3), 255.0),
            np.full((4, 4, 3), np.nan),
            torch.zeros(2, 4, 4),
        ),
        *(None, [[0.5]], np.array([["a"]]), np.array([[None]]), np.ones((4, 4), complex)),
        *(torch.zeros(3, 4, 4).to_sparse(), torch.zeros(3, 4, 4, device="meta"), torch.ones(3, 4, 4, dtype=torch.cfloat)),
    ],
)
def test_what_is_no_picture_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="expected a picture"):
        pixels(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "match"), [({"strokes": 0}, "budget"), ({"strokes": 10**7}, "budget"), ({"style": "oil"}, "style")]
)
def test_impossible_settings_are_refused(settings: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        paint(painter(), picture(), **{"strokes": 5, **settings})


def test_training_teaches_and_reaches_every_weight(tmp_path: Path) -> None:
    config = Config(hidden_size=16, strokes=2, levels=2, batch_size=2)
    prepare(config, tmp_path, lambda text: None)
    pictures = Pictures(config, tmp_path)
    torch.manual_seed(0)
    model, losses = Painter(16, 2), []
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        step = training_loss(model, pictures.batch(0), config.levels, config.looks)
        step.loss.backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
        adam.step()
        adam.zero_grad()
        losses.append(float(step.loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_a_batch_is_a_function_of_the_step(tmp_path: Path) -> None:
    Image.fromarray((np.random.default_rng(0).random((50, 120, 3)) * 255).astype(np.uint8)).save(tmp_path / "wide.png")
    config = Config(data=(str(tmp_path / "wide.png"),), batch_size=3, validation_fraction=0.0)
    (tmp_path / "run").mkdir()
    prepare(config, tmp_path / "run", lambda text: None)
    one, other = Pictures(config, tmp_path / "run"), Pictures(config, tmp_path / "run")
    assert len(one.training) == 3
    for name, values in one.batch(7).items():
        assert_same(values, other.batch(7)[name])
    assert not torch.equal(one.batch(7)["pictures"], one.batch(8)["pictures"])


def test_a_run_trains_resumes_paints_and_is_measured(tmp_path: Path) -> None:
    settings = {"hidden_size": 16, "strokes": 2, "levels": 1, "batch_size": 2, "max_steps": 4, "save_every": 2}
    run = tmp_path / "run"
    unrolled.train("painting", [], run=run, **settings)
    Image.fromarray((picture().permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    trained = unrolled.load(run)
    painting = trained.paint(tmp_path / "a.png", strokes=30)
    assert painting.render(64).shape == (3, 43, 64)
    measured = trained.evaluate(tmp_path / "a.png")
    assert measured["pictures"] == 1
    assert measured["mean_squared_error_1000"] < measured["mean_squared_error_50"]


def test_its_gradient_is_seen_through_all_looks_of_all_levels(tmp_path: Path) -> None:
    settings = {"hidden_size": 16, "strokes": 2, "levels": 2, "looks": 2, "batch_size": 2, "max_steps": 1}
    unrolled.train("painting", [], run=tmp_path / "run", **settings)
    found, _ = reopened.gradients(tmp_path / "run")
    assert [len(flow.h) for flow in found.flows] == [4]


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        pixels(tmp_path / "a.png")
