"""Windows of an image: the filters as the paper writes them, reading, writing, and windows that have left the image."""

import math

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.gaussian_windows import read, windows, write

N, n, HEIGHT, WIDTH, C = 3, 4, 9, 6, 2


def some(scale: float = 0.5) -> torch.Tensor:
    return scale * torch.randn(N, 5, dtype=torch.float64)


def by_the_paper(parameters: torch.Tensor, HEIGHT: int = HEIGHT, WIDTH: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """F_Y and F_X by eq. 19-26 of Gregor et al. 2015, number by number, pixels counted from 1."""
    rows, columns = torch.zeros(N, n, HEIGHT, dtype=torch.float64), torch.zeros(N, n, WIDTH, dtype=torch.float64)
    A, B = WIDTH, HEIGHT
    for image, (gx, gy, log_variance, log_stride, _) in enumerate(parameters.tolist()):
        g_x, g_y = (A + 1) / 2 * (gx + 1), (B + 1) / 2 * (gy + 1)
        stride, variance = (max(A, B) - 1) / (n - 1) * math.exp(log_stride), math.exp(log_variance)
        for i in range(1, n + 1):
            for filters, centre, pixels in ((rows, g_y, B), (columns, g_x, A)):
                mu = centre + (i - n / 2 - 0.5) * stride
                values = [math.exp(-((a - mu) ** 2) / (2 * variance)) for a in range(1, pixels + 1)]
                filters[image, i - 1] = torch.tensor(values, dtype=torch.float64) / sum(values)
    return rows, columns


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (8, 8)], ids=str)
def test_filters_are_those_of_the_paper(size: tuple[int, int]) -> None:
    parameters = some()
    found, (rows, columns) = windows(parameters, n, *size), by_the_paper(parameters, *size)
    assert_same(found.rows, rows)
    assert_same(found.columns, columns)
    assert_same(found.intensity.flatten(), parameters[:, 4].exp())


def test_reading_and_writing_are_products_with_the_filters() -> None:
    parameters, images = some(), torch.randn(N, C, HEIGHT, WIDTH, dtype=torch.float64)
    patches = torch.randn(N, C, n, n, dtype=torch.float64)
    window, (rows, columns), gamma = windows(parameters, n, HEIGHT, WIDTH), by_the_paper(parameters), parameters[:, 4].exp()
    seen, put = read(images, window), write(patches, window)
    for image in range(N):
        for channel in range(C):
            assert_same(seen[image, channel], gamma[image] * rows[image] @ images[image, channel] @ columns[image].T)
            assert_same(put[image, channel], rows[image].T @ patches[image, channel] @ columns[image] / gamma[image])


def test_a_window_of_zeros_covers_the_image() -> None:
    window = windows(torch.zeros(1, 5), n, HEIGHT, WIDTH)
    assert window.centre.tolist() == [[(HEIGHT + 1) / 2, (WIDTH + 1) / 2]]
    top, _, bottom, _ = window.corners()[0].tolist()
    assert top <= 0
    assert bottom >= HEIGHT


def test_the_corners_are_around_the_centre_in_pixels_from_the_upper_left_corner() -> None:
    """One filter on each side, on the pixel in the third row and the second column, as wide as a stride."""
    x, y = 2 * 2 / (WIDTH + 1) - 1, 2 * 3 / (HEIGHT + 1) - 1
    parameters = torch.tensor([[x, y, 0.0, -math.log(HEIGHT - 1), 0.0]], dtype=torch.float64)
    assert_same(windows(parameters, 1, HEIGHT, WIDTH).corners(), torch.tensor([[2.0, 1.0, 3.0, 2.0]], dtype=torch.float64))


def test_gradients_of_a_window_are_those_of_differences() -> None:
    images = torch.randn(N, C, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    patches = torch.randn(N, C, n, n, dtype=torch.float64, requires_grad=True)

    def both(parameters: torch.Tensor, images: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        window = windows(parameters, n, HEIGHT, WIDTH)
        return read(images, window), write(patches, window)

    assert torch.autograd.gradcheck(both, (some().requires_grad_(), images, patches))


def test_a_window_that_has_left_the_image_still_has_filters() -> None:
    far = torch.tensor([[1e4, -1e4, -20.0, 0.0, 0.0]], requires_grad=True)
    window = windows(far, n, HEIGHT, WIDTH)
    assert_same(window.rows.sum(-1), torch.ones(1, n))
    read(torch.randn(1, C, HEIGHT, WIDTH), window).sum().backward()
    assert far.grad is not None
    assert bool(far.grad.isfinite().all())
