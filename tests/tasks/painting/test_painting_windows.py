"""What a painter looks at."""

import pytest
import torch

from tolerance import assert_same
from unrolled.tasks.painting.windows import Grid, finer, resized


@pytest.mark.parametrize(("height", "width"), [(24, 24), (50, 77), (5, 120)])
@pytest.mark.parametrize("moved", [False, True])
def test_windows_show_every_pixel_where_it_is(height: int, width: int, moved: bool) -> None:
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    grid = Grid.of(height, width, moved)
    windows = grid.windows(torch.stack([y, x])[None])
    assert len(windows) == grid.rows * grid.columns
    assert len({tuple(place) for place in windows.permute(0, 2, 3, 1).flatten(0, 2).tolist()}) == height * width
    points = torch.tensor([[0.5 / 32, 0.5 / 32], [15.5 / 32, 20.5 / 32]]).expand(len(windows), 1, 2, 2)
    (places, _), seen = grid.in_picture(points, torch.zeros(len(windows), 1, 2)), windows[:, :, 20, 15]
    for place, (row, column) in zip(places[:, 0, 1] * max(height, width) - 0.5, seen, strict=True):
        assert float(row) == pytest.approx(min(max(float(place[1]), 0), height - 1), abs=1e-3)
        assert float(column) == pytest.approx(min(max(float(place[0]), 0), width - 1), abs=1e-3)


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_beyond_the_edge_counts_for_nothing(moved: bool) -> None:
    grid = Grid.of(50, 77, moved)
    inside = grid.inside(50, 77)
    framed = grid.windows(torch.zeros(1, 1, 50, 77))
    assert inside.shape == framed.shape
    middle = inside.unflatten(0, (grid.rows, grid.columns))[..., 4:-4, 4:-4]
    assert middle.sum() == 50 * 77  # the cores cover the picture once


@pytest.mark.parametrize("moved", [False, True])
def test_what_a_window_writes_it_reads_again(moved: bool) -> None:
    grid = Grid.of(48, 72, moved)
    states = torch.rand(2 * grid.rows * grid.columns, 5)
    written = grid.write(states)
    assert written.shape == (2, 5, 4, 6)
    assert_same(grid.read(written), states)


def test_a_moved_window_reads_the_states_of_its_neighbours() -> None:
    states = Grid.of(48, 48, False).write(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    read = Grid.of(48, 48, True).read(states).view(3, 3)
    assert read.tolist() == [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]]


def test_states_stay_in_their_place_at_the_next_level() -> None:
    states = torch.arange(16.0).view(1, 1, 4, 4)
    assert_same(finer(states, 96, 96)[:, :, ::2, 1::2], states)
    assert finer(states, 60, 96).shape == (1, 1, 6, 8)


def test_resizing_keeps_the_mean() -> None:
    picture = torch.rand(1, 3, 48, 96)
    assert_same(resized(picture, 12, 24).mean((2, 3)), picture.mean((2, 3)))
    assert resized(picture, 60, 120).shape == (1, 3, 60, 120)
