"""What a canvas says of pixels is a distribution over their levels, near the mean and far from it."""

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.tasks.drawing.pixels import brightness, canvas_of, log_probability


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_the_probabilities_of_a_pixels_levels_sum_to_one(levels: int) -> None:
    canvas = 3 * torch.randn(5, 1, 1, 1, dtype=torch.float64)
    log_scale = None if levels == 2 else torch.full((1, 1, 1), -1.5, dtype=torch.float64)
    every = [log_probability(canvas, torch.full_like(canvas, level), levels, log_scale).exp() for level in range(levels)]
    assert_same(torch.stack(every).sum(0), torch.ones(5, dtype=torch.float64))


def test_an_image_is_as_probable_as_its_pixels_together() -> None:
    canvas, images = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(2, (2, 3, 4, 5)).double()
    by_hand = torch.where(images == 1, torch.sigmoid(canvas), 1 - torch.sigmoid(canvas)).log().sum((1, 2, 3))
    assert_same(log_probability(canvas, images, 2), by_hand)


def test_a_level_far_from_the_mean_has_a_finite_gradient() -> None:
    canvas = torch.full((1, 1, 1, 2), -30.0, requires_grad=True)
    log_scale = torch.full((1, 1, 1), -7.0, requires_grad=True)
    log_p = log_probability(canvas, torch.tensor([[[[255.0, 100.0]]]]), 256, log_scale)
    log_p.sum().backward()
    assert bool(log_p.isfinite().all())
    assert canvas.grad is not None
    assert log_scale.grad is not None
    assert bool(canvas.grad.isfinite().all() and log_scale.grad.isfinite().all())
    assert float(log_scale.grad) > 0  # a wider distribution would reach it


def test_a_canvas_of_a_mean_has_that_mean() -> None:
    mean = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert_same(torch.sigmoid(canvas_of(mean)), torch.tensor([1e-3, 0.25, 1 - 1e-3], dtype=torch.float64))
    assert brightness(torch.tensor([0.0, 2.0, 4.0]), 5).tolist() == [0, 0.5, 1]
