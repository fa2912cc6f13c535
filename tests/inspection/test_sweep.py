"""Where gradients vanish and explode, by spectral radius."""

import json
from pathlib import Path

import pytest

from unrolled.inspection import sweep


@pytest.fixture(scope="module")
def found() -> sweep.Sweep:
    return sweep.run(hidden_size=16, steps=40)


def at(found: sweep.Sweep, name: str, radius: float) -> sweep.Point:
    return next(point for point in found.points[name] if point.radius == radius)


def test_a_vanilla_rnn_near_zero_multiplies_by_its_spectral_radius_and_tanh_keeps_it_from_exploding_so(found) -> None:
    assert at(found, "vanilla RNN", 0.5).factor == pytest.approx(0.5, rel=sweep.AGREES)
    assert at(found, "vanilla RNN", 0.5).left[-1] < 1e-9
    assert at(found, "vanilla RNN", 2.0).factor < 1.5
    assert 0.5 in found.numbers()["agrees"]
    assert 2.0 not in found.numbers()["agrees"]


def test_without_saturation_it_explodes_as_its_radius_says_and_clipping_bounds_it(found) -> None:
    identity = at(found, "identity W_hh, ReLU", 1.4)
    assert identity.factor == pytest.approx(1.4, rel=sweep.AGREES)
    assert identity.left[-1] > 1000
    for point in found.points["clipping to norm 1"]:
        plain = at(found, "vanilla RNN", point.radius)
        assert max(point.left) <= max(plain.left)
        assert point.factor == pytest.approx(plain.factor)


def test_an_open_forget_gate_keeps_more_than_a_half_open_one(found) -> None:
    for radius in sweep.RADII:
        assert at(found, "LSTM, forget bias 1", radius).left[-1] > at(found, "LSTM, through c", radius).left[-1]


def test_layer_normalisation_does_not_see_the_scale_of_its_weights(found) -> None:
    factors = [point.factor for point in found.points["layer normalisation"]]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-2)


def test_the_command_writes_the_maps(command, tmp_path: Path) -> None:
    code, out, _ = command("inspect", "sweep", "--hidden-size", "5", "--steps", "10", "--show", tmp_path, "--json")
    assert code == 0
    assert set(json.loads(out)["variants"]) == {variant.name for variant in sweep.VARIANTS}
    assert (tmp_path / "sweep.svg").stat().st_size > 1000
