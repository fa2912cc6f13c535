"""The network beside its equations, REINFORCE beside the gradient of the expected reward, and which loss teaches what."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.tasks.glimpse.conftest import TINY
from tests.tolerance import assert_same
from torch import Tensor

from unrolled.cells import Weights, gru_cell, lstm_cell
from unrolled.tasks.glimpse.config import Config
from unrolled.tasks.glimpse.loss import known_of, reinforce, returns_of, training_loss
from unrolled.tasks.glimpse.model import Glimpses
from unrolled.tasks.glimpse.retina import Retina

DEVIATION = 0.3


def network(**settings) -> Glimpses:
    torch.manual_seed(0)
    model = Glimpses(Config(**{**TINY, "deviation": DEVIATION, **settings}), 1, 4).double()
    if model.policy is not None:  # its weights begin as zeros
        torch.nn.init.normal_(model.policy.weight)
    return model


def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"images": torch.rand(5, 1, 9, 7, dtype=torch.float64), "labels": torch.tensor([0, 3, 1, 2, 3])}


@pytest.mark.parametrize("attention", ["hard", "soft", "random"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_pass_is_its_equations(cell: str, attention: str) -> None:
    model, images = network(cell=cell, attention=attention), batch()["images"]
    looked = model(images)
    h = c = torch.zeros(5, TINY["hidden_size"], dtype=torch.float64)
    weights = Weights(model.core.weight_ih, model.core.weight_hh, model.core.bias_ih, model.core.bias_hh)
    retina = Retina(images, TINY["glimpse_size"], TINY["scales"])
    for t in range(TINY["glimpses"]):
        place = looked.places[t]
        if model.policy is not None:
            assert_same(looked.means[t], torch.tanh(h @ model.policy.weight.T + model.policy.bias))
        if attention == "soft":
            assert torch.equal(place, looked.means[t])
        if looked.values is not None:
            assert_same(looked.values[t], (h @ model.baseline.weight.T + model.baseline.bias).squeeze(1))
        rho = retina.look(place, between=attention == "soft").flatten(1)
        what = torch.relu(rho @ model.what.weight.T + model.what.bias)
        where = torch.relu(place.clamp(-1, 1) @ model.where.weight.T + model.where.bias)
        w_what, w_where = model.joined.weight.chunk(2, dim=1)
        g = torch.relu(what @ w_what.T + where @ w_where.T + model.joined.bias)
        if cell == "rnn":
            h = torch.relu(g @ weights.w_ih.T + weights.b_ih + h @ weights.w_hh.T + weights.b_hh)
        elif cell == "gru":
            h = gru_cell(g, h, weights)
        else:
            h, c = lstm_cell(g, h, c, weights)
        assert_same(looked.scores[t], h @ model.classify.weight.T + model.classify.bias)


def normal_by_quadrature(points: int) -> tuple[Tensor, Tensor]:
    """Numbers and weights with which a sum is the mean over Normal(0, 1)^2, exact for polynomials up to 2 * points - 1."""
    z, w = np.polynomial.hermite_e.hermegauss(points)
    z, w = torch.from_numpy(z), torch.from_numpy(w / w.sum())
    return torch.cartesian_prod(z, z), torch.outer(w, w).flatten()


def reward(place: Tensor) -> Tensor:
    y, x = place.unbind(-1)
    return 1 + 0.5 * y - x + y * x - 2 * y.square() + x**3


def test_reinforce_is_the_gradient_of_the_expected_reward_whatever_the_baseline() -> None:
    z, w = normal_by_quadrature(5)
    mean = torch.tensor([0.4, -0.2], dtype=torch.float64)

    def expected(mean: Tensor) -> Tensor:
        return (w * reward(mean + DEVIATION * z)).sum()

    e, step = torch.eye(2, dtype=torch.float64), 1e-4
    differences = torch.stack([(expected(mean + step * one) - expected(mean - step * one)) / (2 * step) for one in e])
    exact = torch.func.grad(expected)(mean)
    torch.testing.assert_close(differences, exact, rtol=1e-6, atol=1e-6)
    for baseline in (0.0, 0.7):
        means = mean.expand(1, len(z), 2).clone().requires_grad_()
        places = means.detach() + DEVIATION * z
        advantages = (reward(places) - baseline) * w * len(z)  # the mean over images becomes the weighted sum
        reinforce(places, means, advantages, DEVIATION).backward()
        assert_same(-means.grad.sum((0, 1)), exact)


def test_of_several_rewards_only_those_to_come_count_and_the_gradient_is_the_same() -> None:
    """Two glimpses, of which the second has a mean that does not depend on the first; all pairs of quadrature points."""
    z, w = normal_by_quadrature(4)
    first, second = (part.flatten() for part in torch.meshgrid(torch.arange(len(z)), torch.arange(len(z)), indexing="ij"))
    weight = w[first] * w[second]
    mean = torch.tensor([[0.3, -0.4], [-0.1, 0.2]], dtype=torch.float64)
    noise = DEVIATION * torch.stack([z[first], z[second]])  # (2, pairs, 2)

    def rewards(places: Tensor) -> Tensor:
        return torch.stack([places[0, :, 0] - places[0, :, 1].square(), places[0, :, 0] * places[1, :, 1] + places[1, :, 0]])

    exact = torch.func.grad(lambda mean: (weight * rewards(mean[:, None] + noise)).sum() / 2)(mean)
    for known in (torch.zeros(2, len(weight), dtype=torch.float64), known_of(rewards(mean[:, None] + noise), classes=3)):
        means = mean[:, None].expand(2, len(weight), 2).clone().requires_grad_()
        places = means.detach() + noise
        advantages = returns_of(rewards(places), 2) - known
        reinforce(places, means, advantages * weight * len(weight), DEVIATION).backward()
        assert_same(-means.grad.sum(1), exact)


def test_a_reward_at_the_end_is_that_of_every_glimpse() -> None:
    assert returns_of(torch.tensor([[1.0, 0.0]]), 3).tolist() == [[1, 0], [1, 0], [1, 0]]
    assert_same(returns_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 2), torch.tensor([[0.5, 0.5], [0.0, 0.5]]))


def test_what_is_known_before_a_glimpse_is_the_reward_of_the_one_before() -> None:
    rewards = torch.tensor([[0.5, 0.2], [0.9, 0.1], [1.0, 0.4]])
    assert_same(known_of(rewards, classes=4), torch.tensor([[3, 3], [2 * 2.0, 2 * 0.8], [1 * 3.6, 1 * 0.4]]) / 12)


def gradients(model: Glimpses, **settings) -> dict[str, Tensor | None]:
    """Of a step, with the same noise every time."""
    model.zero_grad()
    torch.manual_seed(2)
    config = Config(**{**TINY, "deviation": DEVIATION, "attention": model.attention, **settings})
    training_loss(model, batch(), config).loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("every_glimpse", [False, True])
def test_reinforce_teaches_the_policy_alone_and_the_class_all_but_the_policy(every_glimpse: bool) -> None:
    model = network()
    of = partial(gradients, model, every_glimpse=every_glimpse)
    without, light, heavy = of(policy_weight=0.0), of(policy_weight=1.0), of(policy_weight=3.0)
    for name in without:
        if name.startswith("policy."):
            assert not without[name].any()
            assert light[name].any()
            assert_same(heavy[name], 3 * light[name])
        else:
            assert_same(heavy[name], without[name])
    assert without["baseline.bias"].any()


def test_soft_attention_learns_where_to_look_from_the_class_alone() -> None:
    model = network(attention="soft")
    assert model.baseline is None
    assert gradients(model)["policy.weight"].any()


def test_random_glimpses_have_no_policy_and_do_not_depend_on_the_image() -> None:
    model = network(attention="random")
    assert model.policy is None
    assert not any("policy" in name or "baseline" in name for name in gradients(model))
    one, other = (
        model(images, glimpses=200, generator=torch.Generator().manual_seed(0)).places
        for images in (torch.zeros(3, 1, 9, 7).double(), torch.ones(3, 1, 9, 7).double())
    )
    assert torch.equal(one, other)
    assert -1 <= one.min() < -0.9
    assert 0.9 < one.max() <= 1


def test_without_drawing_it_looks_where_the_means_are() -> None:
    model, images = network(), batch()["images"]
    looked = model(images, drawn=False)
    assert torch.equal(looked.places, looked.means)
    assert not torch.equal(model(images).places, looked.places)
