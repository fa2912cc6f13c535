"""Strokes: pixels at any resolution, gradients, files."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tolerance import assert_same
from unrolled.errors import ConfigError, DataError, RunError
from unrolled.strokes import Painting, Strokes, paint_at, render
from unrolled.strokes.gradient import SquaredError


def some(count: int, seed: int = 0, bristles: float = 0.0, dtype: torch.dtype = torch.float32) -> Strokes:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    start = random(count, 1, 2)
    points = torch.cat([start, start + 0.4 * random(count, 2, 2) - 0.2], 1)
    return Strokes(
        points,
        0.01 + 0.1 * random(count, 2),
        random(count, 3),
        0.5 + 0.5 * random(count),
        torch.full((count,), bristles, dtype=dtype),
        torch.arange(count),
    )


def straight(**changes: Tensor) -> Strokes:
    """One red stroke from (0.2, 0.5) to (0.8, 0.5), of radius 0.1."""
    stroke = Strokes(
        torch.tensor([[[0.2, 0.5], [0.5, 0.5], [0.8, 0.5]]]),
        torch.tensor([[0.1, 0.1]]),
        torch.tensor([[1.0, 0.0, 0.0]]),
        torch.ones(1),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.long),
    )
    return stroke._replace(**changes)


def every_pixel(strokes: Strokes, height: int, width: int, canvas: Tensor) -> Tensor:
    """`render` by its definition: every stroke over every pixel, one stroke after the other."""
    pixel = 1 / max(height, width)
    x, y = (torch.arange(width) + 0.5) * pixel, (torch.arange(height) + 0.5) * pixel
    for n in range(len(strokes.opacity)):
        alpha, light = paint_at(strokes[n : n + 1], x[None].to(canvas.dtype), y[None].to(canvas.dtype), pixel)
        colour = strokes.colours[n, :, None, None] + (0 if light is None else light)
        canvas = canvas + alpha * (colour.clamp(0, 1) - canvas)
    return canvas


def test_a_stroke_is_as_wide_and_as_long_as_it_says() -> None:
    red = render(straight(), 100, 100)[1] < 0.5
    assert red.any(1).sum() == pytest.approx(20, abs=1)
    assert red.any(0).sum() == pytest.approx(60 + 20, abs=1)
    assert not red[:39].any()
    assert not red[61:].any()


def test_a_stroke_tapers_from_one_radius_to_the_other() -> None:
    red = render(straight(radii=torch.tensor([[0.1, 0.02]])), 200, 200)[1] < 0.5
    assert red[:, 40].sum() == pytest.approx(40, abs=2)
    assert red[:, 160].sum() == pytest.approx(8, abs=2)


@pytest.mark.parametrize("radii", [(0.02, 0.2), (0.2, 0.02), (0.2, 0.2)])
@pytest.mark.parametrize("away", [0.0, 0.05])
def test_a_stroke_within_its_wider_end_is_a_disc(radii: tuple[float, float], away: float) -> None:
    wide = torch.tensor([0.4137, 0.5211])
    other = wide + away * (radii[0] != radii[1])
    points = torch.stack([wide, other, other] if radii[0] >= radii[1] else [other, other, wide])
    zero = torch.zeros(1)
    dot = Strokes(points[None], torch.tensor([radii]), torch.zeros(1, 3), torch.ones(1), zero, zero.long())
    middles = (torch.arange(48) + 0.5) / 48
    far = ((middles - wide[0]) ** 2 + (middles[:, None] - wide[1]) ** 2).sqrt()
    disc = ((0.2 - far) * 48 + 0.5).clamp(0, 1)
    assert ((1 - render(dot, 48, 48)) - disc).abs().max() < 1e-3


@pytest.mark.parametrize("bristles", [0.0, 0.8])
@pytest.mark.parametrize(("height", "width"), [(37, 53), (128, 90), (1, 7)])
def test_cells_change_nothing(height: int, width: int, bristles: float) -> None:
    strokes, canvas = some(30, bristles=bristles), torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
    expected = every_pixel(strokes, height, width, canvas)
    assert_same(render(strokes, height, width, canvas), expected)
    with torch.no_grad():
        assert_same(render(strokes, height, width, canvas), expected)


def test_the_canvas_that_is_given_stays_as_it_was() -> None:
    canvas = torch.zeros(3, 16, 16)
    render(straight(), 16, 16, canvas)
    assert not canvas.any()


def test_what_is_laid_last_is_on_top() -> None:
    both = Strokes(*(torch.cat([one, one]) for one in straight()))._replace(colours=torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    assert render(both, 50, 50)[:, 25, 25].tolist() == [0, 1, 0]
    assert render(both[torch.tensor([1, 0])], 50, 50)[:, 25, 25].tolist() == [1, 0, 0]


def test_no_strokes_leave_the_canvas_and_strokes_outside_too() -> None:
    canvas = torch.rand(3, 20, 30)
    assert_same(render(some(0), 20, 30, canvas), canvas)
    far = straight(points=straight().points + torch.tensor([5.0, -7.0]))
    assert_same(render(far, 20, 30, canvas), canvas)


def test_a_painting_is_the_same_at_every_resolution() -> None:
    strokes = some(40)
    small, large = render(strokes, 64, 64), render(strokes, 512, 512)
    assert (torch.nn.functional.avg_pool2d(large, 8) - small).abs().mean() < 0.01


def test_bristles_leave_as_much_paint_at_every_resolution_to_a_few_hundredths() -> None:
    strokes = straight(bristles=torch.ones(1))
    amounts = [float((1 - render(strokes, size, size)[1]).mean()) for size in (32, 128, 512)]
    assert max(amounts) - min(amounts) < 0.05 * max(amounts)
    assert amounts[0] < 0.9 * float((1 - render(straight(), 32, 32)[1]).mean())


def test_thick_paint_is_light_where_the_light_comes_from() -> None:
    grey = straight(colours=torch.full((1, 3), 0.5), bristles=torch.ones(1))
    x = (torch.arange(200) + 0.5)[None] / 200
    light = paint_at(grey, x, x, 1 / 200).light
    assert light is not None
    assert light[0, 82:84, 60:140].mean() > 0.03  # the upper edge
    assert light[0, 117:119, 60:140].mean() < -0.03


def test_rendering_does_not_change_the_canvas_that_it_is_given() -> None:
    canvas = torch.rand(3, 8, 8)
    before = canvas.clone()
    render(some(5), 8, 8, canvas)
    assert torch.equal(canvas, before)


def test_gradients_of_a_straight_stroke_are_those_of_finite_differences() -> None:
    points = torch.tensor([[[0.21, 0.33], [0.43, 0.46], [0.65, 0.59]]], dtype=torch.float64, requires_grad=True)
    radii = torch.tensor([[0.11, 0.05]], dtype=torch.float64, requires_grad=True)
    colour = torch.tensor([[0.9, 0.2, 0.4]], dtype=torch.float64, requires_grad=True)
    opacity = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)

    def picture(points: Tensor, radii: Tensor, colour: Tensor, opacity: Tensor) -> Tensor:
        middle = points[:, [0, 2]].mean(
            1, keepdim=True
        )  # the curve stays straight, so the nearest point of its chain is its own
        points = torch.cat([points[:, :1], middle, points[:, 2:]], 1)
        return render(Strokes(points, radii, colour, opacity, torch.zeros(1), torch.zeros(1)), 19, 23, None)

    assert torch.autograd.gradcheck(picture, (points, radii, colour, opacity), eps=1e-7, atol=1e-4)


def test_gradients_of_curved_strokes_point_where_finite_differences_point() -> None:
    strokes, target = some(5, dtype=torch.float64), torch.rand(3, 40, 40, dtype=torch.float64)

    def error(points: Tensor) -> Tensor:
        return (render(strokes._replace(points=points), 40, 40) - target).square().sum()

    points = strokes.points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(error(points), points)
    measured, step = torch.zeros_like(gradient).flatten(), 1e-5
    for n in range(len(measured)):
        shift = torch.zeros_like(measured)
        shift[n] = step
        shift = shift.view_as(points)
        measured[n] = (error(strokes.points + shift) - error(strokes.points - shift)) / (2 * step)
    assert torch.cosine_similarity(gradient.flatten(), measured, dim=0) > 0.999


@pytest.mark.parametrize(("height", "width"), [(37, 53), (90, 64), (1, 7)])
def test_the_gradient_by_hand_is_that_of_the_renderer(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    canvas, target = torch.rand(2, 3, height, width, dtype=torch.float64, generator=generator)
    strokes = some(25, dtype=torch.float64)
    given = [one.clone().requires_grad_() for one in (strokes.points, strokes.radii, strokes.colours, strokes.opacity)]
    laid = render(Strokes(*given, strokes.bristles, strokes.seeds), height, width, canvas)
    (laid - target).square().sum().backward()
    by_hand = SquaredError(strokes, canvas, target).gradient(strokes)
    for one, other in zip(by_hand, given, strict=True):
        assert other.grad is not None
        assert (one - other.grad).norm() < 1e-4 * other.grad.norm()  # Newton's method has not quite arrived, in other units


def test_the_gradient_by_hand_follows_strokes_that_move() -> None:
    strokes, target = some(9, dtype=torch.float64), torch.full((3, 40, 40), 0.5, dtype=torch.float64)
    canvas = torch.ones_like(target)
    error = SquaredError(strokes, canvas, target)
    for _ in range(5):
        error.gradient(strokes)
        strokes = strokes._replace(points=strokes.points + 0.001, radii=strokes.radii * 0.99)
    fresh = SquaredError(strokes, canvas, target).gradient(strokes)
    for one, other in zip(error.gradient(strokes), fresh, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


def test_strokes_beside_the_canvas_have_no_gradient() -> None:
    far = straight(points=straight().points + 9)
    canvas = torch.zeros(3, 8, 8)
    assert not any(one.any() for one in SquaredError(far, canvas, canvas + 1).gradient(far))


def test_gradients_of_bristled_strokes_reach_every_parameter() -> None:
    given = [one.requires_grad_() if one.is_floating_point() else one for one in some(6, bristles=0.5)]
    render(Strokes(*given), 32, 32).square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() and one.grad.any() for one in given[:5])


def painting(count: int = 12, height_to_width: float = 0.75) -> Painting:
    return Painting(some(count), torch.tensor([0.9, 0.8, 0.7]), height_to_width)


def test_json_brings_back_the_painting(tmp_path: Path) -> None:
    painting().save(tmp_path / "a.json")
    again = Painting.load(tmp_path / "a.json")
    assert again.height_to_width == 0.75
    assert (again.render(96) - painting().render(96)).abs().max() < 0.03  # numbers are written to five digits


def test_svg_shows_what_is_rendered(tmp_path: Path) -> None:
    """Its outlines, filled by Pillow, against our pixels; half circles at the ends as polygons with few corners."""
    opaque = painting()._replace(strokes=some(12)._replace(opacity=torch.ones(12)))
    opaque.save(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    image = Image.new("RGB", (1000, 750), re.search(r'<rect[^>]*fill="(#\w+)"', text)[1])  # type: ignore[index]
    draw = ImageDraw.Draw(image)
    paths = re.findall(r'<path d="M([^"]*)Z" fill="(#\w+)"', text)
    assert len(paths) == 12
    for outline, colour in paths:
        outline = re.sub(r"A\S+ 0 0 0", "", outline).replace("L", "")
        corners = [tuple(map(float, corner.split(","))) for corner in outline.split()]
        draw.polygon(corners, fill=colour)
        for (x0, y0), (x1, y1) in ((corners[15], corners[16]), (corners[31], corners[0])):
            radius = ((x0 - x1) ** 2 + (y0 - y1) ** 2) ** 0.5 / 2
            draw.circle(((x0 + x1) / 2, (y0 + y1) / 2), radius, fill=colour)
    drawn = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(750, 1000, 3).permute(2, 0, 1) / 255
    assert (drawn - opaque.render(1000)).abs().mean() < 0.02


def test_a_film_begins_bare_and_ends_with_the_whole_painting() -> None:
    frames = list(painting().growing(48, frames=6))
    assert len(frames) == 6
    assert (frames[0] == frames[0][:, :1, :1]).all()
    assert_same(frames[-1], painting().render(48))
    assert len(list(painting().growing(48, frames=100))) == 13


def test_a_portrait_stays_a_portrait() -> None:
    assert painting(height_to_width=2.0).render(64).shape == (3, 64, 32)
    assert painting(height_to_width=1e-3).render(64).shape == (3, 1, 64)


@pytest.mark.parametrize("longer", [0, -3, 20_000])
def test_a_size_that_cannot_be_is_refused_before_work_starts(longer: int) -> None:
    with pytest.raises(ConfigError, match="pixels"):
        painting(height_to_width=1.0).render(longer)


def test_other_endings_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.json or \.svg"):
        painting().save(tmp_path / "a.png")
    with pytest.raises(RunError, match="could not write"):
        painting().save(tmp_path / "nowhere" / "a.svg")


@pytest.mark.parametrize("change", ["{", "[]", '{"format_version": 2}'])
def test_a_damaged_painting_is_refused_in_one_line(tmp_path: Path, change: str) -> None:
    (tmp_path / "a.json").write_text(change)
    with pytest.raises(DataError, match=r"a\.json") as error:
        Painting.load(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    painting().save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    content["strokes"][3]["points"][0][1] = float("nan")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"strokes\.3"):
        Painting.load(tmp_path / "a.json")
