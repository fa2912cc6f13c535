"""Nats per image: the bound, the importance-weighted estimate, and what they are of a model that can be solved."""

import math

import numpy as np
import pytest
import torch
from tests.tolerance import assert_same

from unrolled.task import Processes
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.draw import Draw, Writer
from unrolled.tasks.drawing.loss import measure

SHAPE, IMAGES = (1, 4, 3), 11
pixels = np.random.default_rng(0).integers(0, 2, (IMAGES, *SHAPE), dtype=np.uint8)
labels = np.zeros(IMAGES, np.int64)


def model_of() -> Draw:
    config = Config(steps=3, hidden_size=6, latent_size=2, read_size=2, write_size=2)
    model = Draw(config, SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
    return model


def test_the_importance_weighted_estimate_is_tighter_than_the_bound_and_by_more_samples_tighter() -> None:
    model = model_of()
    few, many = (measure(model, pixels, labels, samples=samples) for samples in (5, 200))
    assert many["importance_weighted"] < few["importance_weighted"] < few["loss"]
    assert few["loss"] == pytest.approx(few["reconstruction"] + few["kl"])


def test_it_is_minus_the_log_of_the_mean_weight() -> None:
    model = model_of().eval()
    found = measure(model, pixels[:1], labels[:1], samples=4)
    x = torch.from_numpy(pixels[:1]).float().repeat(4, 1, 1, 1)
    with torch.no_grad():
        log_weight = model(x, generator=torch.Generator().manual_seed(0)).log_weight
    by_hand = -log_weight.double().exp().mean().log()
    assert_same(torch.tensor(found["importance_weighted"]), by_hand.float())


def test_of_a_model_whose_canvas_ignores_z_it_comes_to_the_exact_value() -> None:
    """Then P(x | z) = P(x), and the bound is the KL too high, whatever Q is."""
    model = model_of()
    assert isinstance(model.writer, Writer)
    with torch.no_grad():
        model.latent.weight.mul_(0.2)
        model.latent.bias.mul_(0.2)
        model.writer.patch.weight.zero_()
        model.writer.patch.bias.zero_()
    found = measure(model, pixels, labels, samples=2000)
    p = torch.sigmoid(model.canvas.detach()).numpy()
    exact = -float(np.log(np.where(pixels == 1, p, 1 - p)).sum((1, 2, 3)).mean())
    assert found["reconstruction"] == pytest.approx(exact, rel=1e-5)
    assert found["loss"] - exact == pytest.approx(found["kl"], rel=1e-4)
    assert abs(found["importance_weighted"] - exact) < found["kl"] / 10


def test_bits_per_dimension_are_nats_by_the_pixels_and_log_2() -> None:
    found = measure(model_of(), pixels, labels, samples=3)
    assert found["bits_per_dimension"] == pytest.approx(found["loss"] / 12 / math.log(2))
    assert found["importance_weighted_bits_per_dimension"] == pytest.approx(found["importance_weighted"] / 12 / math.log(2))


def test_the_noise_is_the_same_every_time() -> None:
    model = model_of()
    first = measure(model, pixels, labels, samples=3)
    torch.manual_seed(5)
    assert measure(model, pixels, labels, samples=3) == first


def test_processes_share_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrolled.tasks.drawing.loss.AT_ONCE", 4)
    model, parts = model_of(), []

    class One(Processes):
        def gather(self, value):
            parts.append(value)
            return parts

    whole = measure(model, pixels, labels)
    for index in range(2):
        shared = measure(model, pixels, labels, processes=One(index, 2))
    assert shared == pytest.approx(whole)
