"""What a glimpse holds, beside a loop over pixels."""

import pytest
import torch
from tests.tolerance import assert_same
from torch import Tensor

from unrolled.tasks.glimpse.retina import Retina


def by_loop(image: Tensor, y: float, x: float, size: int, scale: int) -> Tensor:
    """A patch (C, size, size) of one image (C, height, width) around a place, whose corner is moved to a whole pixel."""
    channels, height, width = image.shape
    step, found = 2**scale, torch.zeros(channels, size, size, dtype=image.dtype)
    top, left = (
        round(float(torch.tensor((place + 1) / 2 * side - size * step / 2))) for place, side in ((y, height), (x, width))
    )
    for i in range(size):
        for j in range(size):
            for row in range(top + i * step, top + (i + 1) * step):
                for column in range(left + j * step, left + (j + 1) * step):
                    if 0 <= row < height and 0 <= column < width:
                        found[:, i, j] += image[:, row, column] / step**2
    return found


def test_a_glimpse_at_a_known_place_has_the_known_pixels() -> None:
    image = torch.arange(6 * 8.0).view(1, 1, 6, 8)
    seen = Retina(image, size=2).look(torch.tensor([[-1 / 3, 0.5]]))  # 2 and 6 pixels from the corner
    assert seen.tolist() == [[[[[13, 14], [21, 22]]]]]


@pytest.mark.parametrize("size", [1, 3, 4])
def test_patches_are_the_means_of_squares_and_nothing_beside_the_image(size: int) -> None:
    torch.manual_seed(0)
    images, places = torch.rand(5, 3, 9, 7, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64) * 2 - 1
    places[0], places[1], places[2] = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    seen = Retina(images, size, scales=3).look(places)
    assert seen.shape == (5, 3, 3, size, size)
    for image, place, patches in zip(images, places, seen, strict=True):
        for scale in range(3):
            assert_same(patches[scale], by_loop(image, *place.tolist(), size, scale))


def test_places_outside_of_the_image_are_those_at_its_edge() -> None:
    retina = Retina(torch.rand(2, 1, 9, 7), 4, 2)
    outside, edge = torch.tensor([[-3.0, 0.2], [5.0, 1.5]]), torch.tensor([[-1.0, 0.2], [1.0, 1.0]])
    assert torch.equal(retina.look(outside), retina.look(edge))
    assert torch.equal(retina.look(outside, between=True), retina.look(edge, between=True))


def test_between_pixels_it_is_a_line_from_one_to_the_next() -> None:
    images = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    retina = Retina(images, 4, 2)

    def at(row: float, column: float) -> Tensor:
        return retina.look(torch.tensor([[row, column]], dtype=torch.float64) / 4 - 1, between=True)

    assert torch.equal(at(3, 5), retina.look(torch.tensor([[3, 5]], dtype=torch.float64) / 4 - 1))
    assert_same(at(3.25, 5), 0.75 * at(3, 5) + 0.25 * at(4, 5))
    assert_same(at(3, 4.5), 0.5 * at(3, 4) + 0.5 * at(3, 5))


def test_gradients_reach_the_place_between_pixels() -> None:
    torch.manual_seed(0)
    retina = Retina(torch.rand(3, 2, 9, 7, dtype=torch.float64), 3, 2)
    places = (torch.rand(3, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda places: retina.look(places, between=True), places)


def test_an_image_of_one_pixel_can_be_looked_at() -> None:
    seen = Retina(torch.full((1, 1, 1, 1), 0.5), 1, 2).look(torch.zeros(1, 2))
    assert seen.flatten().tolist() == [0.5, 0.125]
