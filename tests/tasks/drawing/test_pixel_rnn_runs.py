"""A PixelRNN as a task: trained, measured, drawn from and completed from its run folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tolerance import assert_same

import unrolled
from unrolled.errors import ConfigError, RunError

SMALL = {"hidden_size": 6, "num_layers": 2, "batch_size": 4, "max_steps": 2, "validation_fraction": 0.2, "sample_every": 0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty of 6 x 5 pixels: a bright bar in one half, as two classes."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "bars.npz"
    labels = np.arange(20) % 2
    shown = rng.integers(0, 90, (20, 6, 5))
    shown[labels == 0, :3] += 150
    np.savez(path, images=shown.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module", params=["row_lstm", "diagonal_bilstm"])
def run(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / request.param
    unrolled.train("drawing", [str(images)], run=folder, model=request.param, **SMALL)
    return folder


def test_the_loss_is_the_exact_likelihood(run: Path, images: Path) -> None:
    trained = unrolled.load(run)
    levels, _ = trained.read(str(images))
    found = trained.evaluate(str(images))
    with torch.no_grad():
        expected = -trained.model.log_likelihood(torch.from_numpy(levels).float()).mean()
    assert_same(torch.tensor(found["loss"]), expected)
    assert_same(torch.tensor(found["bits_per_dimension"]), expected / (30 * np.log(2)))
    assert found.keys() == {"loss", "bits_per_dimension", "images"}  # no bound, no samples


def test_images_that_do_not_fit_together_are_measured_one_by_one(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, found, counts = unrolled.load(run), unrolled.load(run).evaluate(str(images)), []
    monkeypatch.setattr("unrolled.tasks.drawing.loss.NUMBERS", trained.model.numbers_per_image + 1)
    trained.model.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    assert_same(torch.tensor(trained.evaluate(str(images))["loss"]), torch.tensor(found["loss"]))
    assert counts == [1] * 20


def test_it_draws_black_and_white_and_completes_the_upper_half(run: Path, images: Path) -> None:
    trained = unrolled.load(run)
    drawn = trained.draw(5, seed=1)
    assert drawn.shape == (5, 1, 6, 5)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    given = torch.from_numpy(trained.read(str(images))[0]).float()
    completed = trained.complete(str(images), seed=1)
    assert torch.equal(completed[:, :, :3], given[:, :, :3])
    assert not torch.equal(completed[:, :, 3:], given[:, :, 3:])


def test_its_steps_are_the_rows(run: Path) -> None:
    trained = unrolled.load(run)
    images, (canvases, windows, _) = trained.draw(3, seed=2), trained.steps(3, seed=2)
    assert canvases.shape == (7, 3, 1, 6, 5)
    assert windows is not None
    for step in range(7):
        assert torch.equal(canvases[step, :, :, :step], images[:, :, :step])
        assert (canvases[step, :, :, step:] == 0.5).all()
    assert windows[2].tolist() == [[2, 0, 3, 5]] * 3
    assert trained.draw_steps(str(run / "steps.gif"), count=3) == 3


def test_it_reads_no_image_to_draw_it_again(run: Path, images: Path) -> None:
    with pytest.raises(RunError, match="expected a DRAW, got a"):
        unrolled.load(run).reconstruct(str(images))


def test_it_learns_which_pixels_are_bright(images: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "hidden_size": 8, "max_steps": 60, "learning_rate": 0.02, "warmup_steps": 5, "resample": True}
    unrolled.train("drawing", [str(images)], run=tmp_path / "run", model="diagonal_bilstm", **settings)
    loss = unrolled.load(tmp_path / "run").evaluate(str(images))["loss"]
    assert loss < 0.8 * 30 * np.log(2)  # of an image of which nothing is known


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_colour_and_levels_are_learned_in_either_precision(tmp_path: Path, precision: str) -> None:
    rng, photos = np.random.default_rng(0), tmp_path / "photos"
    photos.mkdir()
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (4, 3, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    settings = {**SMALL, "colour": True, "levels": 256, "precision": precision}
    unrolled.train("drawing", [str(photos)], run=tmp_path / "run", model="diagonal_bilstm", **settings)
    trained = unrolled.load(tmp_path / "run")
    assert trained.draw(2).shape == (2, 3, 4, 3)
    assert 7 < trained.evaluate(str(photos))["bits_per_dimension"] < 9  # of bytes of which nothing is known, 8


def test_units_that_three_channels_cannot_share_are_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_size: expected a multiple of 3"):
        unrolled.train("drawing", [str(images)], run=tmp_path / "run", model="row_lstm", colour=True, hidden_size=32)


def test_layers_whose_width_nobody_names_are_narrow_and_channels_can_share_it(images: Path, tmp_path: Path) -> None:
    settings = {name: value for name, value in SMALL.items() if name != "hidden_size"}
    unrolled.train("drawing", [str(images)], run=tmp_path / "run", model="row_lstm", colour=True, **settings)
    assert unrolled.load(tmp_path / "run").config.hidden_size == 48


def test_first_images_do_not_depend_on_how_many_are_drawn_nor_on_how_many_fit(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = unrolled.load(run)
    seven = trained.draw(7, seed=3)
    assert torch.equal(trained.draw(4, seed=3), seven[:4])
    monkeypatch.setattr("unrolled.tasks.drawing.generate.AT_ONCE", 3)
    assert torch.equal(trained.draw(7, seed=3), seven)


def test_each_seed_completes_a_sheet_of_its_own(command, run: Path, images: Path, tmp_path: Path) -> None:
    columns = {}
    for seed in (0, 1):
        code, _, errors = command("draw", run, "--complete", images, "--seed", seed, "--output", tmp_path / "a.png")
        assert code == 0, errors
        sheet = np.asarray(Image.open(tmp_path / "a.png"))
        columns[seed] = [sheet[:, number * 74 :][:, :70].tobytes() for number in range(2, 6)]  # 5 pixels, 14 times as large
    assert len({*columns[0], *columns[1]}) == 8
