"""The figures of the lesson say what is so: each measurement agrees with another way to it."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.tolerance import TOLERANCE, assert_same

from unrolled.inspection import why
from unrolled.inspection.why import (
    networks,
    one_matrix,
    repeated_products,
    time_and_depth,
    truncation,
    two_gradients,
    uninterrupted_path,
)

DOCS = Path(__file__).parents[2] / "docs"
ROUNDING = TOLERANCE[torch.float32]["rtol"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradients_of_the_copies_add_up_to_that_of_the_one_matrix(seed: int) -> None:
    numbers = one_matrix.measure(steps=9, hidden_size=7, seed=seed)
    assert numbers["difference"] < ROUNDING
    assert numbers["contributions"][0] == 0, "h_0 is zero"
    assert sum(numbers["contributions"]) >= numbers["norm_of_sum"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_two_gradients_add_up_to_what_the_layer_measures(seed: int) -> None:
    numbers = two_gradients.measure(steps=9, hidden_size=7, seed=seed)
    assert numbers["difference"] < ROUNDING
    assert numbers["later"][-1] == 0, "nothing comes after the last step"
    assert numbers["total"][-1] == numbers["own"][-1]


def test_a_layer_has_the_radius_that_is_asked_for() -> None:
    layer = networks.of_radius(3, 7, 1.5, seed=0)
    assert_same(torch.linalg.eigvals(layer.weight_hh_l0.detach()).abs().max(), torch.tensor(1.5))


def test_gradients_shrink_the_faster_the_smaller_the_radius() -> None:
    numbers = repeated_products.measure(steps=30, hidden_size=24)
    factors = [one["factor"] for one in numbers.values()]
    assert factors == sorted(factors)
    assert all(one["factor"] < float(radius) for radius, one in numbers.items()), "tanh has a slope of 1 at most"
    assert all(one["norms"][0] == pytest.approx(1, rel=ROUNDING) for one in numbers.values())


def test_an_open_forget_gate_keeps_the_gradient_as_a_residual_network_does() -> None:
    numbers = uninterrupted_path.measure(steps=30, hidden_size=16)
    left = [shares[-1] for shares in numbers["lstm"].values()]
    assert left[0] < left[1] < 0.1 < left[2]
    assert numbers["plain"][-1] < 0.1 < 0.5 < numbers["divided"][-1] < 2 < numbers["residual"][-1]
    assert all(shares[-1] > numbers["gates"][bias][-1] for bias, shares in numbers["lstm"].items()), "paths through h add to it"
    for shares in (numbers["rnn"], *(numbers[kind] for kind in ("plain", "residual", "divided")), *numbers["lstm"].values()):
        assert len(shares) == 30
        assert shares[0] == 1


def test_the_loss_is_in_the_corner_of_the_two_axes() -> None:
    for layers in time_and_depth.measure(layers=3, steps=9, hidden_size=7).values():
        norms = torch.tensor(layers)
        assert norms.shape == (3, 9)
        assert float(norms.max()) == float(norms[2, 8])
        assert_same(norms[2, 8], torch.tensor(1.0))


def test_a_gradient_that_is_not_cut_is_the_full_one_and_one_that_is_cut_learns_less() -> None:
    numbers = truncation.measure(delay=2, steps=8, iterations=120)
    whole = numbers["gradients"][-1]
    assert_same(torch.tensor([whole["cosine"], whole["norm"]]), torch.ones(2))
    cosines = [one["cosine"] for one in numbers["gradients"]]
    assert cosines[0] < cosines[-2] < 1 - ROUNDING
    assert [one["k2"] for one in numbers["training"]] == [4, 8]
    assert numbers["training"][1]["loss"] < numbers["training"][0]["loss"] < numbers["guess"]


def test_one_command_makes_the_figures_of_the_page(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncation, "measure", partial(truncation.measure, delay=2, steps=8, iterations=2))
    code, out, err = command("inspect", "why", tmp_path / "new" / "figures")
    assert (code, err) == (0, "")
    written = [Path(line) for line in out.splitlines()]
    assert sorted(written) == sorted((tmp_path / "new" / "figures").iterdir())
    assert all(json.loads(path.read_text()) for path in written if path.suffix == ".json")
    shown = re.findall(r"\]\(why/([\w-]+)\.svg\)", (DOCS / "why.md").read_text(encoding="utf-8"))
    assert shown == list(why.FIGURES)
    assert sorted(path.stem for path in (DOCS / "why").glob("*.svg")) == sorted(shown)
    (tmp_path / "file").write_text("in the way")
    code, _, err = command("inspect", "why", tmp_path / "file" / "figures")
    assert code == 2
    assert err.startswith(f"error: {tmp_path / 'file' / 'figures'}: cannot make this folder")
